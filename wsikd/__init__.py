"""Distil a high-magnification tissue grader into a low-magnification one.

Names are imported when they are first used, so that ``import wsikd`` takes a few milliseconds.

    import wsikd

    slide = wsikd.open_slide("s.svs")
    store = wsikd.tile("s.svs", "stores", mpp=(1.0, 4.0), patch_px=512)
    run = wsikd.distill("2_student.yaml", data="stores", teacher="runs/teacher")
    student = wsikd.load_student("runs/student")
    grades = student.predict("s.svs")

Names in ``__all__`` are public; all else may move between versions.

For research use only, not for diagnosis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsikd.api.attention import Attention, attend
    from wsikd.api.bags import Bags, embed
    from wsikd.api.comparison import Bench, bench
    from wsikd.api.grademap import GradeMap
    from wsikd.api.results import Results, infer
    from wsikd.api.scores import Scores, evaluate
    from wsikd.api.slide import Slide, open_slide
    from wsikd.api.slide_scores import SlideScores, evaluate_slides
    from wsikd.api.stores import Stores, tile
    from wsikd.api.student import Student, load_student
    from wsikd.api.training import Run, distill
    from wsikd.core.about import RESEARCH_USE, __version__
    from wsikd.core.errors import WsikdError
    from wsikd.tiles.store import TileStore

__all__ = [
    "RESEARCH_USE",
    "Attention",
    "Bags",
    "Bench",
    "GradeMap",
    "Results",
    "Run",
    "Scores",
    "Slide",
    "SlideScores",
    "Stores",
    "Student",
    "TileStore",
    "WsikdError",
    "__version__",
    "attend",
    "bench",
    "distill",
    "embed",
    "evaluate",
    "evaluate_slides",
    "infer",
    "load_student",
    "open_slide",
    "tile",
]
_HOMES = {
    "wsikd.api.attention": ("Attention", "attend"),
    "wsikd.api.bags": ("Bags", "embed"),
    "wsikd.api.comparison": ("Bench", "bench"),
    "wsikd.api.grademap": ("GradeMap",),
    "wsikd.api.results": ("Results", "infer"),
    "wsikd.api.scores": ("Scores", "evaluate"),
    "wsikd.api.slide": ("Slide", "open_slide"),
    "wsikd.api.slide_scores": ("SlideScores", "evaluate_slides"),
    "wsikd.api.stores": ("Stores", "tile"),
    "wsikd.api.student": ("Student", "load_student"),
    "wsikd.api.training": ("Run", "distill"),
    "wsikd.core.about": ("RESEARCH_USE", "__version__"),
    "wsikd.core.errors": ("WsikdError",),
    "wsikd.tiles.store": ("TileStore",),
}


if not TYPE_CHECKING:  # or type checkers would take any name for one that exists

    def __getattr__(name: str) -> object:
        """Import a public name from its module."""
        for home, names in _HOMES.items():
            if name in names:
                value = getattr(import_module(home), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'wsikd' has no attribute {name!r}{_meant(name)}")


_INSTEAD = {
    "train": "distill trains teachers too",
    "predict": "use load_student(RUN).predict(SLIDE), or infer for several slides",
    "load_run": "use Run.open",
    "open_run": "use Run.open",
    "open_store": "use TileStore.open",
    "load_store": "use TileStore.open",
    "load_grades": "use GradeMap.load",
    "open_grades": "use GradeMap.load",
    "load_teacher": "load_student opens teachers too",
}


def _meant(name: str) -> str:
    """What to use instead of a name that is not public."""
    from difflib import get_close_matches

    if name in _INSTEAD:
        return f"; {_INSTEAD[name]}"
    close = get_close_matches(name, __all__, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def __dir__() -> list[str]:
    return sorted(__all__)

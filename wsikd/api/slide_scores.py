"""``wsikd.evaluate_slides``: graded slides against a pathologist's grades."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

    from wsikd.api.many import One
    from wsikd.grade.runs.compare_labels import SlideLabel


class SlideScores(Mapping[str, "float | None"]):
    """Figures of graded slides: "kappa", "accuracy", "auc_cancer"; None where one is undefined.

    Attributes:
        record: all that ``wsikd evaluate --slides --json`` prints: figures, intervals, confusion,
            and the slides that do not count.

    Examples:
        >>> import wsikd
        >>> _ = wsikd.infer(["s.svs"], "runs/student", "out")
        >>> scores = wsikd.evaluate_slides("out", {"s": 5})
        >>> scores.record["slides"], sorted(scores)
        (1, ['accuracy', 'auc_cancer', 'kappa'])
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        """Use :func:`evaluate_slides`."""
        self.record = dict(record)

    def __getitem__(self, name: str) -> float | None:
        value: float | None = self.record["figures"][name]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.record["figures"])

    def __len__(self) -> int:
        return len(self.record["figures"])

    def interval(self, name: str) -> tuple[float, float] | None:
        """Ends of the 95 % interval of a figure; None where there is none."""
        found = self.record["intervals"][name]
        return None if found is None else (float(found[0]), float(found[1]))

    def to_text(self) -> str:
        """What ``wsikd evaluate --slides`` prints."""
        from wsikd.grade.runs.labels_text import slides_text

        return slides_text(self.record)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the grade groups, the pathologist's in rows, the student's in columns.

        Args:
            ax: matplotlib axes; new ones by default.

        Returns:
            The axes.
        """
        from wsikd.api.plots import new_axes

        axes = ax or new_axes()
        names, counts = self.record["grade_groups"], self.record["confusion"]
        axes.imshow(counts, cmap="Blues")
        most = max(max(row) for row in counts)
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                colour = "white" if 2 * count > most else "black"
                axes.text(x, y, str(count), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("grade group, student")
        axes.set_ylabel("grade group, pathologist")
        axes.set_title(f"{self.record['slides']} slides")
        return axes

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} {'undefined' if value is None else f'{value:.3f}'}"
            for name, value in self.items()
        )
        return f"SlideScores({self.record['slides']} slides: {shown})"

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.to_text())}</pre>"


def evaluate_slides(results: One, labels: One | Mapping[str, int]) -> SlideScores:
    """Compare graded slides with a pathologist's grades, as ``wsikd evaluate --slides`` does.

    Args:
        results: folder of ``wsikd infer``, or what :func:`infer` returned.
        labels: a CSV with the columns ``slide``, ``grade_group`` (0 to 5) or ``gleason`` (3+4,
            benign), and ``patient`` where known; or slide -> grade group, 0 for no cancer.

    Returns:
        The figures, with 95 % intervals over patients where they are known, else slides.

    Raises:
        ConfigError: the folder holds no results, or none of a labelled slide.
        AnnotationError: the labels cannot be read.

    Examples:
        >>> import wsikd
        >>> results = wsikd.infer(["s.svs"], "runs/student", "out")
        >>> scores = wsikd.evaluate_slides(results, {"s": 5})
        >>> scores.interval("kappa") is None  # fewer than ten slides
        True
    """
    from wsikd.grade.runs.compare_labels import read_labels, read_results, score_slides
    from wsikd.grade.runs.slide_looks import look_at_slides
    from wsikd.slides.what_is import RESULTS, check_role

    out = Path(results)
    check_role(out, "--slides", RESULTS)
    known = _labels_of(labels) if isinstance(labels, Mapping) else read_labels(Path(labels))
    found = read_results(out)
    record = score_slides(found, known)
    return SlideScores(record | {"looks": look_at_slides(found, known, out)})


def _labels_of(labels: Mapping[str, int]) -> list[SlideLabel]:
    """Labels given in Python. Raises AnnotationError."""
    from wsikd.grade.runs.compare_labels import GROUPS, SlideLabel

    if not labels:
        raise AnnotationError("labels", "name no slide", "give slide: grade group")
    for slide, group in labels.items():
        if group not in range(GROUPS):
            raise AnnotationError(slide, f"grade group {group!r} is not understood", "give 0 to 5")
    return [SlideLabel(slide, int(group)) for slide, group in labels.items()]

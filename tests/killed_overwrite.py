"""Replace a result or a store again and again, each time in a child that is killed at one step.

Called as ``python -m tests.killed_overwrite infer|tile SLIDE OUT STEPS``. The n-th child is killed
with SIGKILL before its n-th renaming or removal. After each kill the state of the folder is printed
as one line of JSON: the settings of what is found there, and what else lies beside it.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from wsikd.core.output import place
from wsikd.slides.listing.manifest import SlideEntry, open_entry


def kill_at(step):
    """Let this process die before its ``step``-th renaming or removal."""
    calls = []

    def counted(own):
        def call(*arguments):
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(own)
            return own(*arguments)

        return call

    for name in ("into_place", "remove_tree"):
        setattr(place, name, counted(getattr(place, name)))


def infer(slide, out, value):
    """Grade with a smallest area of ``value`` mm2."""
    from tests.grade.graded import infer_slide
    from tests.grade.runs.test_results import SPEC, Purple
    from wsikd.grade.predict import PredictSettings, SlidePredictor
    from wsikd.grade.runs.results import ResultSettings

    settings = PredictSettings(workers=1)
    predictor = SlidePredictor(Purple(), SPEC, device="cpu", settings=settings)
    wanted = ResultSettings(formats=("zarr", "csv"), min_area_mm2=value)
    entry = SlideEntry(slide, "s")
    infer_slide(predictor, entry, out, wanted, student="abc", overwrite=True)


def infer_state(folder):
    """The smallest area of a whole result; None where there is none."""
    from wsikd.grade.exports.ome_zarr import read_alone

    if not (folder / "result.json").is_file() or not (folder / "tiles.csv").is_file():
        return None
    read_alone(folder / "grades.zarr")
    return json.loads((folder / "result.json").read_text())["made_with"]["min_area_mm2"]


def tile(slide, out, value):
    """Tile with a least share of tissue of ``value``."""
    from wsikd.tiles.write import tile_slide

    with open_entry(SlideEntry(slide, "s")) as opened:
        settings = replace(tile_settings(), min_tissue=value)
        tile_slide(opened, out / "s.zarr", settings, workers=1, overwrite=True)


def tile_settings():
    from wsikd.tiles.store import StoreSettings

    return StoreSettings((4.0,), 16, 16, "otsu", 0.1, (), 0.5)


def tile_state(folder):
    """The least share of tissue of a whole store; None where there is none."""
    from wsikd.tiles.store import TileStore

    if not folder.exists():
        return None
    store = TileStore.open(folder)
    assert len(store.patches)
    return store.settings["min_tissue"]


def main(kind, slide, out, steps):
    """Make it once with 0.1, then replace it in children that die."""
    make, state = (infer, infer_state) if kind == "infer" else (tile, tile_state)
    if kind == "infer":
        pass  # once, before there are children
    path = out / ("s" if kind == "infer" else "s.zarr")
    make(slide, out, 0.1)  # in this process, so that no child compiles anything again
    for step in range(steps):
        child = os.fork()
        if not child:
            kill_at(step)
            make(slide, out, 0.1 + 0.01 * (step + 1))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = {
            "killed": os.WIFSIGNALED(status),
            "there": state(path),
            "replaced": state(path.with_name(f"{path.name}.replaced")),
        }
        print(json.dumps(found), flush=True)
    make(slide, out, 0.5)
    left = sorted(p.name for p in out.iterdir() if p.name != "overlays")
    print(json.dumps({"there": state(path), "left": left}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))

"""One HTML page on runs that grade patches: curves, confusion, hard patches, attention, settings.

Only validation patches are read; the test part is not looked at. The page contains its pictures and
opens without a server.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.errors import DataError, WsikdError
from wsikd.core.output.files import check_file
from wsikd.core.output.markers import REPORT
from wsikd.core.run import RunDir, write_text_atomic
from wsikd.core.softmax import softmax
from wsikd.learn.score import plots
from wsikd.learn.score.pictures import attention_of
from wsikd.learn.score.predict_patches import check_fit, predict
from wsikd.learn.score.test_record import describe, load_for, open_subject
from wsikd.slides.html_page import data_uri, templates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.score.scored_run import Subject

PAGE = "report.html"
HARD_PATCHES = 12
_PICTURE_PX = 128
_QUALITY = 80


@dataclass(frozen=True)
class Patch:
    """A patch on the page: its picture, its true class, and what the network says."""

    picture: str
    truth: str
    said: str
    probability: float
    slide: str


@dataclass(frozen=True)
class RunPart:
    """What the page shows of a run.

    Attributes:
        name: last part of its path.
        facts: titles and values.
        pictures: title -> data URI of a plot.
        figures: title -> value with its interval, on validation patches.
        wrong: patches whose true class has the least probability, the least first.
        doubtful: patches whose two most probable classes are closest, the closest first.
        agreement: mean correlation of the attention of teacher and student.
        fault: why figures and patches are missing.
        settings: the configuration, flat.
    """

    name: str
    facts: dict[str, str]
    settings: dict[str, str]
    pictures: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    wrong: list[Patch] = field(default_factory=list)
    doubtful: list[Patch] = field(default_factory=list)
    agreement: float | None = None
    fault: str = ""


def write_run_report(runs: Sequence[Path], folder: Path, *, device: str = "cpu") -> Path:
    """Write ``report.html`` on one run or several.

    Args:
        runs: run folders of networks that grade patches.
        folder: where to; made if missing.
        device: where to compute.

    Returns:
        The page.

    Raises:
        BundleError, ConfigError: a run has no network, or a damaged configuration.
        OutputError: the page cannot be written.
    """
    check_file(folder / PAGE, REPORT)
    parts = [_part(open_subject(run), run, device) for run in runs]
    html = (
        templates("wsikd.learn.score")
        .get_template("runs.html.j2")
        .render(
            runs=parts,
            differences=_differences(parts),
            figures=list(dict.fromkeys(name for part in parts for name in part.figures)),
            version=__version__,
            research_use=RESEARCH_USE,
        )
    )
    write_text_atomic(folder / PAGE, html, REPORT)
    return folder / PAGE


def _part(subject: Subject, run: Path, device: str) -> RunPart:
    card = subject.bundle.card
    settings = _flat(subject.config.model_dump(mode="json")) if subject.config else {}
    facts = {
        "method": str(card.method or ""),
        "network": str(card.network.arch),
        "reads": f"{subject.bundle.spec.patch_px} px at {subject.bundle.spec.mpp:g} um/px",
        "parameters": f"{card.parameters:,}" if card.parameters else "",
        "multiply-accumulates a patch": f"{card.macs:,}" if card.macs else "",
        "teacher": ", ".join(Path(t).name for t in getattr(subject.config, "teachers", ())),
    }
    part = RunPart(run.resolve().name, {k: v for k, v in facts.items() if v}, settings)
    with TemporaryDirectory() as scratch:
        rows = RunDir(subject.place).read_metrics() if subject.config else []
        if any("epoch" in row for row in rows):
            plots.plot_curves(rows, Path(scratch) / "curves.png")
            part.pictures["Curves"] = _embedded(Path(scratch) / "curves.png")
        try:
            return _on_patches(part, subject, Path(scratch), device)
        except WsikdError as error:
            return RunPart(
                part.name, part.facts, settings, pictures=part.pictures, fault=str(error)
            )


def _on_patches(part: RunPart, subject: Subject, scratch: Path, device: str) -> RunPart:
    """Add what the validation patches show. Raises DataError."""
    patches = load_for(subject)
    check_fit(subject.bundle, patches)
    chosen = patches.indices("val")
    if subject.config is None or not len(chosen):
        raise DataError(part.name, "has no validation patches", "set split.val")
    network = subject.bundle.network().to(device).eval()
    logits = predict(network, patches, chosen, mpp=subject.bundle.spec.mpp, device=device)
    probability = softmax(logits, subject.bundle.temperature or 1.0)
    truth = patches.label[chosen]
    found = describe(truth, probability, patches, chosen)
    plots.plot_confusion(found["confusion"], found["classes"], scratch / "confusion.png")
    part.pictures["Confusion, number of validation patches"] = _embedded(scratch / "confusion.png")
    agreement, pairs = attention_of(subject, patches, chosen, device)
    if pairs:
        plots.plot_attention(pairs, found["classes"], scratch / "attention.png")
        part.pictures["Where teacher and student look"] = _embedded(scratch / "attention.png")
    figures = {
        name.replace("_", " "): _figure(value, found["intervals"][name])
        for name, value in found["figures"].items()
    }
    own = probability[np.arange(len(truth)), truth]
    ranked = np.sort(probability, 1)
    margin = ranked[:, -1] - ranked[:, -2]
    wrong = np.argsort(own, kind="stable")
    wrong = wrong[probability[wrong].argmax(1) != truth[wrong]]
    return RunPart(
        part.name, part.facts, part.settings, part.pictures, figures,
        _patches(patches, chosen, probability, wrong[:HARD_PATCHES]),
        _patches(patches, chosen, probability, np.argsort(margin, kind="stable")[:HARD_PATCHES]),
        agreement,
    )  # fmt: skip


def _patches(
    patches: PatchSet,
    chosen: NDArray[np.int64],
    probability: NDArray[np.float64],
    places: NDArray[np.int64],
) -> list[Patch]:
    """Patches at some places of ``chosen``, with their pictures."""
    found = []
    for place in places.tolist():
        index, said = int(chosen[place]), int(probability[place].argmax())
        image = patches.images([index])[0].permute(1, 2, 0).numpy()
        found.append(
            Patch(
                _small(image),
                patches.classes[patches.label[index]],
                patches.classes[said],
                float(probability[place, said]),
                str(patches.slide[index]),
            )
        )
    return found


def _small(rgb: NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(rgb))
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return data_uri(stream.getvalue(), "image/jpeg")


def _embedded(file: Path) -> str:
    return data_uri(file.read_bytes())


def _figure(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by their dotted key.

    >>> _flat({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': '1', 'c': '[2, 3]'}
    """
    found: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return found


def _differences(parts: Sequence[RunPart]) -> list[tuple[str, list[str]]]:
    """Settings whose values differ between the runs, with the value of each run."""
    keys = list(dict.fromkeys(key for part in parts for key in part.settings))
    rows = [(key, [part.settings.get(key, "not set") for part in parts]) for key in keys]
    return [(key, [*map(_shown, values)]) for key, values in rows if len(set(values)) > 1]


def _shown(value: str) -> str:
    """A setting without the folders of absolute paths, which are those of one machine.

    >>> _shown('["/home/a/set.csv"]'), _shown('4.0')
    ('[".../set.csv"]', '4.0')
    """
    return re.sub(r'"/[^"]*/([^"/]*)"', r'".../\1"', value)

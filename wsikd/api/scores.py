"""``wsikd.evaluate``: how good a network is on labelled patches, or on bags of slides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.api.many import names_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsikd.api.many import Many, One

    Several = One | Many


class Scores(Mapping[str, "float | None"]):
    """Figures of a network: name -> value, e.g. "kappa"; None where one is undefined.

    Attributes:
        record: all that ``wsikd evaluate --json`` prints: figures, intervals, confusion, baseline.
        pictures: folder of the pictures; None where none were drawn.

    Examples:
        >>> import wsikd
        >>> scores = wsikd.evaluate("runs/student")
        >>> scores.record["split"], "kappa" in scores
        ('val', True)
    """

    def __init__(self, record: Mapping[str, Any], pictures: Path | None = None) -> None:
        """Use :func:`evaluate`."""
        self.record, self.pictures = dict(record), pictures

    @property
    def _figures(self) -> dict[str, float | None]:
        if "figures" in self.record:
            return dict(self.record["figures"])
        from wsikd.learn.mil.train import TOLD

        names = [name for name in ("accuracy", *TOLD) if name in self.record]
        return {name: self.record[name]["value"] for name in names}

    def __getitem__(self, name: str) -> float | None:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    def interval(self, name: str) -> tuple[float, float] | None:
        """Ends of the 95 % interval of a figure; None where there is none."""
        if "figures" in self.record:
            found = self.record["intervals"][name]
        else:
            found = self.record[name]["interval"]
        return None if found is None else (float(found[0]), float(found[1]))

    def to_text(self) -> str:
        """What ``wsikd evaluate`` prints."""
        if "figures" not in self.record:
            from wsikd.learn.mil.text import bag_text

            return bag_text(self.record)
        from wsikd.learn.score.text import patch_text

        return patch_text(self.record, self.pictures)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} {'undefined' if value is None else f'{value:.3f}'}"
            for name, value in list(self.items())[:3]
        )
        return f"Scores({self.record['split']}: {shown})"

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.to_text())}</pre>"


def evaluate(
    network: One,
    *,
    data: Several = (),
    split: str = "val",
    against: Several = (),
    again: bool = False,
    allow_seen: bool = False,
    by: str | None = None,
    mpp: float | None = None,
    pictures: str | Path | bool = False,
    device: str = "auto",
) -> Scores:
    """Score a network as ``wsikd evaluate`` does.

    Args:
        network: run folder or bundle of a grader, or a run of method mil.
        data: labelled patches (tile stores, class folders, a labels CSV), or bags; default the
            run's own.
        split: "val" or "test". The test part is scored once, and the run records that.
        against: for a run of method mil: bags of the same slides by another encoder.
        again: score the test part once more; that is recorded too.
        allow_seen: score data that the network or its teacher was trained on; that is recorded.
        by: your name, for the record; default your login.
        mpp: um per pixel of the patches in ``data``, for a bundle alone; default the network's.
        pictures: folder for pictures; True is ``report`` in the run's folder, and none for a
            bundle.
        device: "auto", "cpu" or "cuda:0".

    Returns:
        The figures.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the data are missing, or the network was trained on them.
        BundleError: the network is missing or damaged.
        OutputError: the test part was scored before.

    Examples:
        >>> import wsikd
        >>> scores = wsikd.evaluate("runs/student", device="cpu")
        >>> scores.interval("kappa") is None  # fewer than ten slides
        True
    """
    from wsikd.slides.what_is import CLASSIFIER, what_is

    subject, places = Path(network), [Path(one) for one in names_of(data)]
    asked: dict[str, Any] = {"by": by or _login(), "again": again}
    if what_is(subject) == CLASSIFIER:
        return _of_bags(subject, split, places, [Path(one) for one in names_of(against)], asked)
    if names_of(against):
        from wsikd.core.errors import ConfigError

        raise ConfigError("against", "is for runs of method mil", "leave it out")
    return _of_patches(subject, split, places, {**asked, "allow_seen": allow_seen}, mpp, pictures,
                       device)  # fmt: skip


def _of_bags(
    subject: Path, split: str, data: list[Path], against: list[Path], asked: dict[str, Any]
) -> Scores:
    from wsikd.learn.preflight import check_data
    from wsikd.slides.what_is import BAGS, GRIDS

    for places in filter(None, (data, against)):
        check_data(places, BAGS, GRIDS)

    from wsikd.learn.mil.evaluate import evaluate_bags

    return Scores(
        evaluate_bags(
            subject, split, data=names_of(data), against=names_of(against), **asked
        )
    )  # fmt: skip


def _of_patches(
    subject: Path,
    split: str,
    data: list[Path],
    asked: dict[str, Any],
    mpp: float | None,
    pictures: str | Path | bool,  # noqa: FBT001 - a folder, or whether to choose one
    device: str,
) -> Scores:
    from wsikd.core.ranks import refuse_team
    from wsikd.learn.preflight import check_data
    from wsikd.models.files.peek import peek_grader
    from wsikd.slides.what_is import PATCHES

    refuse_team("wsikd evaluate", "start it once")
    peek_grader(subject, "RUN")
    if data:
        check_data(data, *PATCHES)

    from wsikd.learn.score import test_record as scoring
    from wsikd.learn.score.pictures import write_pictures
    from wsikd.models.device import pick_device

    where = str(pick_device(device))
    opened = scoring.open_subject(subject)
    patches = scoring.load_for(opened, names_of(data), mpp=mpp)
    scored = scoring.score(opened, patches, split, device=where, **asked)
    record = dict(scored.record)
    folder = None if isinstance(pictures, bool) else Path(pictures)
    if pictures is True and opened.config is not None:
        folder = opened.place / "report"
    if folder is not None:
        record["report"] = write_pictures(opened, scored, folder, device=where)
    return Scores(record, folder)


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in the container
        return "unknown"

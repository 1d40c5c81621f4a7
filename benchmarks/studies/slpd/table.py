"""What a study of SLPD came to, as JSON values and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.studies.slpd.pool import pool_areas, pool_scores
from benchmarks.studies.slpd.scores import figures
from benchmarks.studies.slpd.study import HEAD, NEAREST
from benchmarks.studies.study_folder import read_json
from wsikd.core.output.markdown import table_lines
from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.core.run_places import relative_places
from wsikd.learn.mil.train import figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.studies.slpd.study import Study, Vectors

BASE = "dino"


def make_table(study: Study) -> dict[str, Any]:
    """Sum up a finished study.

    Returns:
        JSON values: ``clusters`` (by way of making vectors the adjusted Rand index, and the share
        of slides whose nearest one is of their class), ``slides`` (by way and share of labels, AUC
        of the slide's network and of the nearest neighbours, with the difference to "dino" of the
        same protocol), each as :mod:`benchmarks.studies.slpd.pool` has it, and ``each``, the
        figures of the AUC of every seed; ``left_out``, ``settings`` and ``provenance``.

    Raises:
        WsikdError: a stage's results cannot be read.
    """
    ways: dict[tuple[str, str | None], list[Vectors]] = {}
    for row in study.rows:
        ways.setdefault((row.name, row.protocol), []).append(row)
    clusters, slides = [], []
    for (name, protocol), rows in ways.items():
        about = {"protocol": protocol, "vectors": name}
        if rows[0].clustered:
            clusters.append({**about, **_clusters(study, rows)})
        slides += [
            {**about, "share": share, **_slides(study, rows, share)}
            for share in study.config.shares
        ]
    return {
        "clusters": clusters, "slides": slides, "left_out": study.left_out,
        "own_data": bool(study.data),
        "settings": relative_places(study.config.model_dump(mode="json"), study.out),
        "provenance": provenance(),
    }  # fmt: skip


def _clusters(study: Study, rows: Sequence[Vectors]) -> dict[str, Any]:
    files = dict.fromkeys(study.scores_file(row) for row in rows)  # of what is not trained, one
    found = [read_json(file) for file in files]
    clusters, means = ([one[kind] for one in found] for kind in ("clusters", "means"))
    return {
        "rand": pool_scores(clusters, "rand"),
        "right_by_prototypes": pool_scores(clusters, "right"),
        "right_by_means": pool_scores(means, "right"),
        "chance": pool_scores(means, "chance"),
    }


def _slides(study: Study, rows: Sequence[Vectors], share: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first = rows[0]
    for by in (HEAD, NEAREST):
        own = [study.predictions(row, share, by) for row in rows]
        each = [figures(one) for one in own]
        found[by] = {"auc": pool_areas(own), "each": each,
                     "slides": each[0]["slides"], "groups": each[0]["groups"]}  # fmt: skip
        if first.variant not in (None, BASE) and BASE in study.config.variants:
            base = [type(row)(row.seed, row.protocol, BASE) for row in rows]
            other = [study.predictions(row, share, by) for row in base]
            found[by]["to_dino"] = pool_areas(own, other)
    return found


def write_table(study: Study) -> str:
    """Write ``table.json`` and ``table.md`` of a finished study; returns the Markdown.

    Raises:
        OutputError: the folder cannot be written.
    """
    table = make_table(study)
    text = to_markdown(table)
    write_json_atomic(study.out / "table.json", table)
    write_text_atomic(study.out / "table.md", text)
    return text


CLUSTER_HEADS = (
    "region vectors", "protocol", "adjusted Rand index", "nearest slide right, by prototypes",
    "by mean vector",
)  # fmt: skip
SLIDE_HEADS = (
    "region vectors", "protocol", "labels", "AUC of the slide's network", "minus dino",
    "AUC of nearest neighbours", "minus dino",
)  # fmt: skip


def to_markdown(table: dict[str, Any]) -> str:
    """The tables of a study, each with what it needs to be read."""
    names = ("rand", "right_by_prototypes", "right_by_means")
    clusters = [
        [row["vectors"], row["protocol"] or "-", *(_cell(row[k]) for k in names)]
        for row in table["clusters"]
    ]
    chance = table["clusters"][0]["chance"]["value"]
    told = "" if chance is None else f"By chance the nearest slide is right in {chance:.3f}."
    slides = [
        [
            row["vectors"], row["protocol"] or "-", f"{row['share']:.0%}",
            _cell(row[HEAD]["auc"]), _versus(row[HEAD]),
            _cell(row[NEAREST]["auc"]), _versus(row[NEAREST]),
        ]
        for row in table["slides"]
    ]  # fmt: skip
    lines = [
        *table_lines(CLUSTER_HEADS, clusters), "", told, "", *table_lines(SLIDE_HEADS, slides),
        "", _note(table),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any]) -> str:
    """A figure with its interval over patients, and in round brackets that over seeds."""
    seeds = found["seeds"]["interval"]
    return figure(found) + ("" if seeds is None else f" ({seeds[0]:.3f}, {seeds[1]:.3f})")


def _versus(found: dict[str, Any]) -> str:
    return _cell(found["to_dino"]) if "to_dino" in found else "-"


def _note(table: dict[str, Any]) -> str:
    """What the figures are, and what they are not."""
    settings = table["settings"]
    seeds = len(settings["seeds"])
    trained = (
        "of one training each" if seeds == 1 else
        f"of the mean over {seeds} trainings; in round brackets 95 % of that mean over trainings "
        "(Student's), on these patients"
    )  # fmt: skip
    note = (
        f"{table['slides'][0][HEAD]['slides']} slides of {table['slides'][0][HEAD]['groups']} "
        f"patients, {settings['folds']} folds by patient; AUC is the mean over folds. In square "
        f"brackets: 95 % over patients, {trained}. untrained: the weights that trainings begin "
        "with. transductive: the encoder has read the regions of the test slides, without labels, "
        "as in the papers; per_fold: it never has, and clusters and neighbours are those of the "
        "slides that its fold tests. Clusters are compared within each slide."
    )
    if not table["own_data"] and settings["cohort"]["form"] == "grids":
        note += (
            " Embeddings of tiles are drawn, and all tissue types have the same mean, so means "
            "over tiles tell nothing by construction: what tells is which kinds of tile occur "
            "together in a region. The baseline shows that the label does not leak, and is no "
            "measure of what encoders are worth on real tissue. True types are the bound: what a "
            "perfect encoder would give; with labels dealt anew nothing can be learnt from them."
        )
    if table["left_out"]:
        note += f" Left out, since they cannot be read: {', '.join(sorted(table['left_out']))}."
    return note

"""What a study of SLPD came to, as JSON values and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.learn.bag_train import figure
from wsikd.learn.slpd_scores import difference, figures, mean_of
from wsikd.learn.slpd_study import HEAD, NEAREST
from wsikd.learn.studies import read_json

if TYPE_CHECKING:
    from wsikd.learn.slpd_study import Study, Vectors

BASE = "dino"


def make_table(study: Study) -> dict[str, Any]:
    """Sum up a finished study.

    Returns:
        JSON values: ``clusters`` (by row the adjusted Rand index, and the share of slides whose
        nearest one is of their class), ``slides`` (by row and share of labels, AUC and accuracy
        of the slide's network and of the nearest neighbours, with the difference to "dino" of the
        same protocol), ``left_out``, ``settings`` and ``provenance``.

    Raises:
        WsikdError: a stage's results cannot be read.
    """
    clusters, slides = [], []
    for row in study.rows:
        about = {"seed": row.seed, "protocol": row.protocol, "vectors": row.name}
        if row.variant or row.seed == study.config.seeds[0]:
            clusters.append({**about, **_clusters(study, row)})
        slides += [
            {**about, "share": share, **_slides(study, row, share)} for share in study.config.shares
        ]
    return {
        "clusters": clusters, "slides": slides, "left_out": study.left_out,
        "own_data": bool(study.data), "settings": study.config.model_dump(mode="json"),
        "provenance": provenance(),
    }  # fmt: skip


def _clusters(study: Study, row: Vectors) -> dict[str, Any]:
    found = read_json(study.scores_file(row))
    return {
        "rand": mean_of(found["clusters"], "rand"),
        "right_by_prototypes": mean_of(found["clusters"], "right"),
        "right_by_means": mean_of(found["means"], "right"),
        "chance": mean_of(found["means"], "chance"),
    }


def _slides(study: Study, row: Vectors, share: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for by in (HEAD, NEAREST):
        own = study.predictions(row, share, by)
        found[by] = figures(own)
        if row.variant not in (None, BASE) and BASE in study.config.variants:
            base = type(row)(row.seed, row.protocol, BASE)
            found[by]["to_dino"] = difference(own, study.predictions(base, share, by))
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


def to_markdown(table: dict[str, Any]) -> str:
    """The tables of a study, each with what it needs to be read."""
    lines = [
        (
            "| region vectors | protocol | seed | adjusted Rand index | nearest slide right, by "
            "prototypes | by mean vector |"
        ),
        "|---" * 6 + "|",
    ]
    for row in table["clusters"]:
        seed = row["seed"] if row["protocol"] else "-"
        names = ("rand", "right_by_prototypes", "right_by_means")
        cells = [
            row["vectors"],
            row["protocol"] or "-",
            str(seed),
            *(figure(row[k]) for k in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    chance = table["clusters"][0]["chance"]["value"]
    told = "" if chance is None else f"By chance the nearest slide is right in {chance:.3f}."
    lines += [
        "", told, "",
        (
            "| region vectors | protocol | seed | labels | AUC of the slide's network | over folds "
            "| minus dino | AUC of nearest neighbours | minus dino |"
        ),
        "|---" * 9 + "|",
    ]  # fmt: skip
    for row in table["slides"]:
        head, near = row[HEAD], row[NEAREST]
        std = head["auc"]["std"]
        cells = [
            row["vectors"], row["protocol"] or "-", str(row["seed"]), f"{row['share']:.0%}",
            figure(head["auc"]), "-" if std is None else f"std {std:.3f}", _versus(head),
            figure(near["auc"]), _versus(near),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _note(table)]) + "\n"


def _versus(found: dict[str, Any]) -> str:
    return figure(found["to_dino"]) if "to_dino" in found else "-"


def _note(table: dict[str, Any]) -> str:
    """What the figures are, and what they are not."""
    settings = table["settings"]
    note = (
        f"{table['slides'][0][HEAD]['slides']} slides of {table['slides'][0][HEAD]['groups']} "
        f"patients, {settings['folds']} folds by patient; AUC is the mean over folds. Intervals: "
        "95 % over patients, of one training each. transductive: the encoder has read the regions "
        "of the test slides, without labels, as in the papers; per_fold: it never has, and "
        "clusters and neighbours are those of the slides that its fold tests. Clusters are "
        "compared within each slide."
    )
    if not table["own_data"] and settings["cohort"]["form"] == "grids":
        note += (
            " Embeddings of tiles are drawn, and tissue types of one family have the same mean, so "
            "means over tiles tell nothing of the label by construction: the baseline shows that "
            "the label does not leak, and is no measure of what encoders are worth on real tissue. "
            "True types are what a perfect encoder would give: the bound of this slide network "
            "after this training."
        )
    if table["left_out"]:
        note += f" Left out, since they cannot be read: {', '.join(sorted(table['left_out']))}."
    return note

"""An example of each command, for its help; and what an unknown command was meant to be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES = {
    "info": "wsikd info slides/*.svs",
    "tile": "wsikd tile -i slides.csv -o stores --mag 10 --mag 2.5 --patch-size 512",
    "export": "wsikd export stores --to images -o images",
    "embed": "wsikd embed -i slides --encoder timm:resnet18 --mag 10 --patch-size 256 -o bags",
    "distill": "wsikd distill -c 2_student.yaml --data stores --teacher runs/teacher "
    "-o runs/student",
    "evaluate": "wsikd evaluate runs/student",
    "attend": "wsikd attend runs/mil --bags bags -i slides -o attention",
    "slides": "wsikd slides similar runs/slpd s01 -i slides",
    "tune": "wsikd tune -c 2_student.yaml -o tuned --data stores --teacher runs/teacher "
    "--grid weights.fm=0.1,1",
    "reproduce": "wsikd reproduce at_plus --data SICAPv2 -o table",
    "infer": "wsikd infer -i slides -m runs/student -o out",
    "bench": "wsikd bench -i slides --teacher runs/teacher --student runs/student -o bench",
    "demo": "wsikd demo -o demo",
    "report": "wsikd report out",
    "view": "wsikd view out -i slides",
    "watch": "wsikd watch incoming -m runs/student -o graded",
    "export-model": "wsikd export-model runs/student --to onnx -o onnx",
    "name": "wsikd name runs/student Prostate --version 1.2",
    "init": "wsikd init at_plus",
    "config": "wsikd config 2_student.yaml",
    "doctor": "wsikd doctor",
}
"""One line for each command, as it is typed."""
SYNONYMS = {
    "train": "distill",
    "fit": "distill",
    "predict": "infer",
    "grade": "infer",
    "patch": "tile",
    "features": "embed",
    "score": "evaluate",
    "benchmark": "bench",
    "search": "tune",
}
"""What other programs call a command."""


def suggestion(name: str, commands: Iterable[str]) -> str:
    """What to type instead of a command that does not exist.

    Args:
        name: what was typed.
        commands: those that exist.
    """
    known = {**{one: one for one in commands}, **SYNONYMS}
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    found = list(dict.fromkeys(known[one] for one in close))
    meant = " or ".join(f"wsikd {one}" for one in found)
    return f"did you mean {meant}?" if found else "wsikd --help lists the commands"

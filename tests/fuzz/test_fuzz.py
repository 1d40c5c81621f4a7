"""Whatever a file holds, it is read, or refused in one line.

``python -m tests.fuzz NAME:INDEX`` runs one mutant again; ``--keep FOLDER`` keeps its bytes.
"""

import pytest

from tests.fuzz.misbehaving import misbehave
from tests.fuzz.runner import Field
from tests.fuzz.slide_targets import REAL
from tests.fuzz.targets import TARGETS
from tests.fuzz.victim import Victim

MANY, FEW = 500, 30
GENERATED = [name for name in TARGETS if name not in {target.name for target in REAL}]
SLOW = ("jp2", "ome_zarr", "raw_store", "grade_map", "run")
"""Only among the slow tests: TIAToolbox takes long to import, the others resemble faster ones."""


@pytest.fixture(scope="module")
def victim():
    own = Victim()
    yield own
    own.close()


def check(name, count, victim, folder):
    field = Field(TARGETS[name], folder / "f", victim)
    victim.read(field.target.use, field.folder)  # what is imported does not count
    assert victim.read(field.target.use, field.folder) is None
    if "cannot be imported" in (victim.refusal or ""):
        pytest.skip(victim.refusal)
    assert victim.refusal is None, "the sound file must be read, else its mutants show nothing"
    faults = [f"{name}:{i} {file}: {what}" for i, file, what in field.faults(victim, range(count))]
    assert not faults, "\n".join(faults[:10])


@pytest.mark.parametrize("name", [name for name in GENERATED if name not in SLOW])
def test_the_first_mutants(name, victim, tmp_path):
    check(name, FEW, victim, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATED)
def test_all_mutants(name, victim, tmp_path):
    check(name, MANY, victim, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [target.name for target in REAL])
def test_mutants_of_real_files(name, victim, tmp_path, real_slides):
    assert real_slides
    check(name, MANY, victim, tmp_path)


def test_a_fault_is_seen(tmp_path):
    """What the oracle must notice; its process imports nothing else, since it dies of it."""
    own = Victim()
    for number, expected in enumerate(
        ("None", "RAISES", "DIES", "NOISE", "RAISES MemoryError", "UNFORESEEN", "UNPRINTABLE")
    ):
        (tmp_path / "n").write_text(str(number))
        assert str(own.read(misbehave, tmp_path)).startswith(expected)
    own.close()

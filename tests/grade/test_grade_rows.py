"""Many rows of areas at once: the reading of each is that of the row alone."""

import numpy as np
import pytest

from wsikd.grade.gleason import grade_rows, grade_slide
from wsikd.grade.gleason_rules import Rules

CLASSES = ("NC", "G3", "G4", "G5")
RULES = [
    Rules(), Rules("biopsy", 0.5, 0.02, min_pattern=0.05, area_cap_mm2=0.5),
    Rules("prostatectomy", 1.0, minor_4="minor", minor_5="minor"),
    Rules("prostatectomy", 0.0, min_pattern=0.1),
]  # fmt: skip


def rows(seed):
    """Areas of any mix, and such as lie on a threshold or within rounding of one."""
    rng = np.random.default_rng(seed)
    mixed = rng.dirichlet(np.full(4, 0.3), 400) * rng.choice([0.4, 3, 50], (400, 1))
    on = rng.choice([0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0], (400, 4))
    near = on * (1 + rng.choice([0, 1e-9, -1e-9, 1e-8, 1e-12], on.shape))
    return np.concatenate([mixed, mixed.round(2), on, near, np.zeros((2, 4))])


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    "classes", [CLASSES, ("G3", "G4", "G5", "NC"), ("NC", "G3", "G3 ", "G4"), ("NC", "0", "benign",
                                                                             "G4")]
)  # fmt: skip
def test_as_each_row_alone(rules, classes):
    table = rows(len(classes[0]))
    assert grade_rows(table, classes, rules) == [grade_slide(r, classes, rules) for r in table]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_row_that_is_none_is_refused(bad):
    table = np.ones((3, 4))
    table[1, 2] = bad
    with pytest.raises(ValueError, match="finite areas"):
        grade_rows(table, CLASSES, Rules())

import itertools

import pytest

from wsikd.core.classes import ordered_classes, pattern_of


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["G4", "NC", "G5", "G3"], ("NC", "G3", "G4", "G5")),
        (["gleason_5", "non-cancer", "Gleason 3"], ("non-cancer", "Gleason 3", "gleason_5")),
        (["stroma", "GP4", "benign", "GP3"], ("benign", "stroma", "GP3", "GP4")),
        (["tumour", "Normal", "fat"], ("Normal", "fat", "tumour")),
        (["a_stroma", "artefact", "G3"], ("G3", "a_stroma", "artefact")),
    ],
)
def test_classes_are_in_order_of_grade(names, wanted):
    for order in itertools.permutations(names):
        assert ordered_classes([*order, order[0]]) == wanted


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("NC", 0), ("0", 0), ("gp 5", 5), ("Gleason Pattern 4", 4), ("G6", None), ("", None)],
)
def test_names_stand_for_patterns(name, pattern):
    assert pattern_of(name) == pattern

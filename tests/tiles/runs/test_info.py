import pytest

from wsikd.tiles.runs.info import fields_text


@pytest.mark.parametrize(
    ("level", "level_mpp", "mpp", "said"),
    [
        (0, 0.5, 4.0, "averaged from level 0"),
        (1, 2.0, 4.0, "averaged from the scanner's level 1 (2 um/px)"),
        (1, 4.0, 4.0, "the scanner's level 1 (4 um/px) as it is"),
        (1, 1.996, 2.0, "averaged from the scanner's level 1 (1.996 um/px)"),
    ],
)
def test_it_says_which_pixels_are_averaged(level, level_mpp, mpp, said):
    field = {
        "magnification": 10 / mpp, "mpp": mpp, "patch_px": 128, "level": level,
        "level_mpp": level_mpp, "grid": [3, 3], "fields": 5, "store_bytes": 3 * 128**2 * 5,
    }  # fmt: skip
    (line,) = fields_text({"tissue_fraction": 0.4, "fields": [field]})[1:]
    assert f", {said}, 0.2 MB" in line

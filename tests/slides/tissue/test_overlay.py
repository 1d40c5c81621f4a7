import cv2
import numpy as np
import pytest

from wsikd.core.errors import OutputError
from wsikd.slides.tissue.overlay import write_overlay


@pytest.mark.parametrize(
    ("size", "expected"), [((300, 200), (300, 200)), ((4096, 1024), (2048, 512))]
)
def test_outline_shade_and_size(tmp_path, size, expected):
    width, height = size
    thumbnail = np.full((height, width, 3), (200, 100, 160), np.uint8)
    mask = np.zeros((height // 4, width // 4), bool)
    mask[height // 16 : height // 8, width // 16 : width // 8] = True
    write_overlay(thumbnail, mask, tmp_path / "overlays" / "s.png")
    seen = cv2.imread(str(tmp_path / "overlays" / "s.png"))[..., ::-1]
    w, h = expected
    assert seen.shape == (h, w, 3)
    assert seen[int(h * 0.375), int(w * 0.375)].tolist() == [200, 100, 160]
    assert seen[int(h * 0.8), int(w * 0.8)].tolist() == [150, 75, 120]
    green = (seen == (0, 200, 80)).all(2)
    rows, columns = np.nonzero(green)
    edges = np.array([columns.min() / w, columns.max() / w, rows.min() / h, rows.max() / h])
    np.testing.assert_allclose(edges, [0.25, 0.5, 0.25, 0.5], atol=0.02)
    assert not green[int(h * 0.3) : int(h * 0.45), int(w * 0.3) : int(w * 0.45)].any()
    assert [p.name for p in (tmp_path / "overlays").iterdir()] == ["s.png"]


@pytest.mark.parametrize("fill", [False, True])
def test_none_and_all(tmp_path, fill):
    write_overlay(np.full((40, 60, 3), 240, np.uint8), np.full((40, 60), fill), tmp_path / "s.png")
    seen = cv2.imread(str(tmp_path / "s.png"))
    assert seen[20, 30].tolist() == ([240] * 3 if fill else [180] * 3)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_overlay(
            np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), tmp_path / "file" / "s.png"
        )

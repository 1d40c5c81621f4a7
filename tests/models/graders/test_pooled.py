import torch

from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader


def corners(x, factor):
    """Output pixel i of n reads the input at i (m - 1) / (n - 1): corners lie on corners."""
    side = x.shape[-1]
    place = torch.arange(side * factor, dtype=torch.float64) * (side - 1) / (side * factor - 1)
    low = place.floor().long().clamp(max=side - 2)
    share = place - low
    weight = torch.zeros(side * factor, side, dtype=torch.float64)
    weight[torch.arange(side * factor), low] = 1 - share
    weight[torch.arange(side * factor), low + 1] += share
    return weight @ x.double() @ weight.T


def test_corners_lie_on_corners_where_asked_and_the_bundle_remembers(tmp_path):
    torch.manual_seed(0)
    net = build_grader("vgg_small", 2, width=0.25, upsample=4).eval()
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    half = net.normalise(x)
    net.corner_aligned = True
    found = net.normalise(x)
    torch.testing.assert_close(found.double(), corners(x, 4) / 255, rtol=1e-5, atol=1e-6)
    assert (found - half).abs().max() > 0.05
    spec = InputSpec(
        4.0, 8, (0.0,) * 3, (1.0,) * 3, ("a", "b"), "upsampled", 4, corner_aligned=True
    )
    save_bundle(tmp_path / "b", net, spec, arch="vgg_small", width=0.25)
    again = load_bundle(tmp_path / "b")
    assert again.spec == spec
    torch.testing.assert_close(again.network()(x), net(x))

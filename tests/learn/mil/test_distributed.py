"""Two processes that torchrun starts train the bag network and the embedder that one does."""

import pytest
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.engine.test_distributed import epochs, names
from tests.learn.engine.torchrun import torchrun
from tests.learn.mil.test_train import write_cohort
from tests.learn.ts2g.test_adapter_train import write_pairs

BAGS = {
    "method": "mil", "network": {"arch": "gated", "hidden": 16, "dropout": 0.0},
    "optim": {"epochs": 2, "lr": 1e-2, "batch_size": 4},
}  # fmt: skip
PAIRS = {
    "method": "ts2g", "data": {"mpp": 1.0},
    "trunk": {"arch": "vgg_small", "weights": "random", "tap": "F2"},
    "optim": {"epochs": 2, "batch_size": 10, "lr": 1e-2},
    "augment": {"flips": True, "brightness": 0, "contrast": 0, "saturation": 0},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mil", "ts2g"])
def test_two_processes_train_what_one_does(tmp_path, method):
    if method == "mil":
        data, told = write_cohort(tmp_path / "bags"), BAGS
    else:
        write_pairs(tmp_path / "pairs")
        data = tmp_path / "pairs" / "stores"
        told = {**PAIRS, "data": {"mpp": 1.0, "targets": [str(tmp_path / "pairs" / "bags")]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(told))
    asked = ["distill", "-c", tmp_path / "c.yaml", "--data", data, "--device", "cpu"]
    alone = CliRunner().invoke(main, [*map(str, asked), "-o", str(tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    done = torchrun(*asked, "-o", tmp_path / "two", timeout=500)
    assert done.returncode == 0, done.stderr
    one, two = epochs(tmp_path / "one"), epochs(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    assert names(tmp_path / "two") == names(tmp_path / "one")

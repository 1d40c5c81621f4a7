"""Processes that belong together, and those that only seem to."""

import pytest

from wsikd.core.errors import ConfigError
from wsikd.core.ranks import refuse_unlaunched


@pytest.mark.parametrize(("tasks", "run"), [("4", "a"), ("1", None), ("", None), (None, None)])
def test_one_task_or_torchrun_is_taken(monkeypatch, tasks, run):
    for name, value in (("SLURM_STEP_NUM_TASKS", tasks), ("TORCHELASTIC_RUN_ID", run)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    refuse_unlaunched()


def test_tasks_of_slurm_without_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(ConfigError, match=r"^srun of 4 tasks: .*torchrun"):
        refuse_unlaunched()

"""The last part of a task is done beside the next one: what becomes of both."""

import signal
from itertools import pairwise

import pytest

from tests.core import tasks
from wsikd.core.errors import RegionReadError
from wsikd.core.workers.process import Task, WorkerPool, run_here


@pytest.fixture(scope="module")
def pool():
    with WorkerPool() as found:
        yield found


def test_the_next_task_begins_before_the_writing_ends(pool, tmp_path):
    work = [Task("a", tasks.write_beside, (tmp_path / "a", 0.5)), Task("b", tasks.begin)]
    one, two = pool.run(work)
    assert [one.task.name, two.task.name] == ["a", "b"]
    assert two.value < one.value
    assert (tmp_path / "a").read_text() == "written"


def test_at_most_one_is_being_written(pool, tmp_path):
    work = [Task(f"{n}", tasks.write_beside, (tmp_path / f"{n}", 0.2)) for n in range(4)]
    *ends, last = [o.value for o in pool.run([*work, Task("end", tasks.begin)])]
    assert all(b - a >= 0.15 for a, b in pairwise(ends))
    assert ends[2] < last < ends[3]


@pytest.mark.parametrize("here", [True, False])
def test_an_error_of_the_writing_is_that_of_its_own_task(pool, tmp_path, here):
    work = [Task("a", tasks.refuse_beside), Task("b", tasks.write_beside, (tmp_path / "b", 0.0)),
            Task("c", tasks.refuse)]  # fmt: skip
    one, two, three = run_here(work) if here else pool.run(work)
    assert isinstance(one.error, RegionReadError)
    assert "cannot be written" in str(one.error)
    assert two.error is None
    assert "is damaged" in str(three.error)


def test_who_dies_in_between_takes_both_tasks_along_and_no_third(tmp_path):
    work = [Task("a", tasks.die_beside, (signal.SIGSEGV,)), Task("b", tasks.begin, (30.0,)),
            Task("c", tasks.begin)]  # fmt: skip
    with WorkerPool() as own:
        one, two, three = own.run(work)
    assert (one.died, two.died, three.died) == (True, True, False)
    assert all("SIGSEGV" in o.error.fault for o in (one, two))


def test_a_stalled_writing_is_its_own_tasks_error(tmp_path):
    work = [Task("a", tasks.write_beside, (tmp_path / "a", 60.0)), Task("b", tasks.begin)]
    with WorkerPool(stall_s=2.0) as own:
        one, two = own.run(work)
    assert "no progress" in one.error.fault
    assert not one.died
    assert two.died


def test_a_worn_process_ends_its_writing_before_it_is_replaced(tmp_path):
    with WorkerPool(recycle=1, recycle_s=0) as own:
        work = [Task(f"{n}", tasks.write_beside, (tmp_path / f"{n}", 0.3)) for n in range(3)]
        assert [o.error for o in own.run(work)] == [None] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]

"""Cores and memory that a process may use, by the files of the system."""

import pytest

from wsikd.core.workers import machine


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A file system of 8 usable cores and 10 GB of available memory."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(**files):
        for name, text in {"proc/meminfo": "MemAvailable: 10000000 kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_without_a_group_it_is_the_machine(system):
    root = system()
    assert machine.usable_cores(root) == 8
    assert machine.available_memory(root) == 10_240_000_000


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_a_quota_counts(system, quota, cores):
    root = system(**{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    assert machine.usable_cores(root) == cores


def test_groups_above_count_too(system):
    root = system(**{
        "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/memory.max": "5000",
        "sys/fs/cgroup/a/memory.current": "4000", "sys/fs/cgroup/a/b/memory.max": "max",
        "sys/fs/cgroup/a/b/memory.current": "4000",
        "sys/fs/cgroup/a/memory.stat": "anon 3000\ninactive_file 500\n",
    })  # fmt: skip
    assert machine.usable_cores(root) == 3
    assert machine.available_memory(root) == 1500


def test_groups_of_version_1(system):
    root = system(**{
        "proc/self/cgroup": "4:cpu,cpuacct:/job\n3:memory:/job\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "400000",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9000",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2000",
    })  # fmt: skip
    assert machine.usable_cores(root) == 4
    assert machine.available_memory(root) == 7000


def test_processes_share_it(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 12)
    monkeypatch.setattr(machine, "available_memory", lambda: 100 * 10**9)
    assert [machine.reader_threads(n) for n in (1, 2, 3, 12)] == [12, 6, 4, 2]
    assert [machine.cache_gb(n) for n in (1, 4)] == [40.0, 10.0]
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)
    assert machine.reader_threads() == machine.MOST_THREADS

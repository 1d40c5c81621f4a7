"""Cores and memory that this process may use: those of the machine, or of its quota."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/")
_UNKNOWN_BYTES = 8 * 10**9
"""Assumed memory if the system does not report it."""
MOST_THREADS = 16
"""Greatest number of reading threads; more gave no gain in measurements."""
CACHE_SHARE = 0.4
"""Share of the available memory for data; the rest is for the network, the results and others."""


def usable_cores(root: Path = _ROOT) -> int:
    """Number of cores that the scheduler and the quota allow this process.

    Args:
        root: root of the file system, for tests.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # missing on macOS and Windows
        cores = os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _groups(root, "cpu")]
    return max(1, int(min([float(cores), *quotas])))


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that this process can still allocate, within the machine and its control group.

    Args:
        root: root of the file system, for tests.
    """
    rests = [rest for folder in _groups(root, "memory") if (rest := _rest(folder)) is not None]
    return max(0, min([_machine_memory(root), *rests]))


def reader_threads(processes: int = 1) -> int:
    """Reading threads for each of ``processes`` trainings on this machine, at least two."""
    return max(2, min(MOST_THREADS, usable_cores() // max(1, processes)))


def cache_gb(processes: int = 1) -> float:
    """Memory in 1e9 bytes for decoded data of each of ``processes`` trainings on this machine."""
    return round(CACHE_SHARE * available_memory() / max(1, processes) / 1e9, 1)


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and its parents; version 2, then version 1."""
    mount, own = root / "sys/fs/cgroup", "/"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, names, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0" or controller in names.split(","):
            own = path
            if number != "0":
                mount = mount / controller
    inner = mount / own.lstrip("/")
    folders = [inner, *inner.parents]
    return [f for f in folders if mount in (f, *f.parents) and f.is_dir()]


def _quota(folder: Path) -> float:
    """Number of cores that a control group may use; infinite without a quota."""
    given = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    ]  # fmt: skip
    try:
        quota, period = float(given[0]), float(given[1])
    except (ValueError, IndexError):  # "max", or no such file
        return float("inf")
    return quota / period if quota > 0 and period > 0 else float("inf")


def _rest(folder: Path) -> int | None:
    """Bytes that a control group may still allocate; its file cache counts as free."""
    for limit, now in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, used = _read(folder / limit).strip(), _read(folder / now).strip()
        if most.isdigit() and used.isdigit():
            pages = _numbers(folder / "memory.stat")
            files = pages.get("inactive_file", pages.get("total_inactive_file", 0))
            return int(most) - int(used) + files
    return None


def _machine_memory(root: Path) -> int:
    found = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if found is not None:
        return found * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_BYTES


def _numbers(file: Path) -> dict[str, int]:
    """First word of each line of a file -> the second, a number."""
    rows = (line.split() for line in _read(file).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""

"""Freed memory that is kept; each case in a process of its own, since it is set for good."""

import os
import platform
import subprocess
import sys

import pytest

from wsikd.core.workers.memory import _OWN

FAULTS = """
import resource
import numpy as np
from wsikd.core.workers.memory import keep_freed

done = keep_freed()
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(48 << 20, np.uint8)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**more):
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    line = [sys.executable, "-c", FAULTS]
    out = subprocess.run(line, env=kept | more, check=True, capture_output=True, text=True).stdout
    done, count = out.split()
    return done == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_is_taken_from_the_system_once_and_the_users_own_setting_wins():
    assert faults() == (True, pytest.approx(0, abs=50))
    own, count = faults(MALLOC_MMAP_THRESHOLD_="131072")
    assert not own
    assert count > 200  # huge pages at best, 10 x 48 MB of them

"""The process in which damaged files are read, and what it may do with them.

A file is read and used, or refused by a ``WsikdError`` of one line. Whatever else happens is a
fault: another exception, a death, a hang, a gigabyte of memory, a word on standard error.
"""

import contextlib
import logging
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

CPU_S, WALL_S, MEMORY = 10.0, 120.0, 1 << 30
IMPORTS = 20  # times as long for the first file, which pays for imports
LONGEST = 2000


class Victim:
    """A spawned process that is replaced when it dies or hangs.

    ``refusal`` is the error by which the last file was refused, None where it was read; ``value``
    what reading it returned.
    """

    def __init__(self):
        self.refusal = self.value = None
        self._process = self._link = None

    @property
    def alive(self):
        return self._process is not None and self._process.is_alive()

    def read(self, use, folder):
        """What is wrong with how ``use(folder)`` ends; None where nothing is."""
        patience = 1 if self.alive else IMPORTS
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._link, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            assert self._link.recv() == "ready"
        self._link.send((use, folder))
        start, waited = self._cpu_s(), 0.0
        while not self._link.poll(0.5):
            waited += 0.5
            spent = self._cpu_s() - start
            if spent > CPU_S * patience or waited > WALL_S * patience:
                self.close()
                return f"HANGS: {spent:.0f} s of CPU in {waited:.0f} s"
        try:
            found, self.refusal, self.value = self._link.recv()
            return found
        except EOFError:
            self._process.join(10)
            code = self._process.exitcode
            self.close()
            return f"DIES: exit code {code}"

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._link.close()
            self._process = None

    def _cpu_s(self):
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text(errors="replace")
        except OSError:
            return 0.0
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def serve(link):
    """Answer ``(use, folder)`` with what is wrong, until the parent is gone."""
    noise = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
    for stream in (1, 2):
        os.dup2(noise.fileno(), stream)
    from wsikd.core.workers.noise import is_noise
    from wsikd.core.workers.worker import ENVIRONMENT

    os.environ.update(ENVIRONMENT | {"OMP_NUM_THREADS": "1"})
    for kind in (UserWarning, RuntimeWarning):
        warnings.filterwarnings("always", category=kind)
    records = _Records()
    logging.getLogger().handlers[:] = [records]
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # as the command has it
    link.send("ready")
    while True:
        try:
            use, folder = link.recv()
        except (EOFError, OSError):
            return
        records.lines.clear()
        noise.truncate(0)
        noise.seek(0)
        found, refusal, value = _watched(use, folder)
        sys.stderr.flush()
        noise.seek(0)
        lines = noise.read().decode("utf-8", "replace").splitlines()
        said = "\n".join(line for line in lines if line and not is_noise(line))
        if not found and said:
            found = f"NOISE: {said[:300]}"
        if not found and (odd := records.odd()):
            found = f"LOGS: {odd[:300]!r}"
        link.send((found, refusal, value))


def _watched(use, folder):
    from wsikd.core.errors import WsikdError

    allowed = _data_bytes() + MEMORY
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    try:
        return None, None, use(folder)
    except WsikdError as error:
        return fault_of(error, folder), str(error), None
    except BaseException as error:  # noqa: BLE001 - what else there is, is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-4:]
        way = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(last))
        return f"RAISES {type(error).__name__}: {str(error)[:200]} ({way})", None, None
    finally:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def fault_of(error, folder):
    """What is wrong with a refusal; None where nothing is."""
    text = str(error)
    if not all(part.strip() for part in (error.subject, error.fault, error.remedy)):
        return f"EMPTY PART: {text[:300]!r}"
    if not text.isprintable():
        return f"UNPRINTABLE: {text[:300]!r}"
    if len(text) > LONGEST:
        return f"TOO LONG, {len(text)} characters: {text[:200]!r}"
    if "unforeseen" in text:
        return f"UNFORESEEN: {text}"
    own = re.sub(re.escape(str(folder)) + r"\S*", "", text)
    if tempfile.gettempdir() + "/" in own or re.search(r"/\S+\.py\b|site-packages", own):
        return f"LEAKS A PATH: {text}"
    return None


def _data_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmData:\s+(\d+)", status)[1]) * 1024


class _Records(logging.Handler):
    """What is logged at a level that the command shows."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append((record.name, record.getMessage()))

    def odd(self):
        """The first that is not one of our own lines."""
        for name, text in self.lines:
            ours = name.split(".")[0] == "wsikd"
            if not ours or not text.isprintable() or len(text) > LONGEST:
                return f"{name}: {text}"
        return None

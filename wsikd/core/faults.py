"""Turn any exception into a WsikdError with remedy and exit code."""

from __future__ import annotations

import errno
import os
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from wsikd.core.errors import ConfigError, OutputError, UnforeseenError, WsikdError, one_line
from wsikd.core.registry import culprit

REPORT_IT = "run it alone with --log-level debug and report the traceback"
_LOOKED_AT = 1000
_FULL = {
    "dask": "Dask", "distributed": "Dask", "h5py": "h5py", "lightning": "Lightning",
    "matplotlib": "Matplotlib", "openpyxl": "openpyxl", "optuna": "Optuna", "psutil": "psutil",
    "sklearn": "scikit-learn", "tiatoolbox": "TIAToolbox", "timm": "timm", "torch": "PyTorch",
    "torchvision": "torchvision",
}  # fmt: skip
"""What the small installation, for grading alone, does without: module -> name."""
_OS_REMEDIES = {
    errno.EEXIST: "a file has this name; give a folder",
    errno.ENOTDIR: "a part of this path is a file; give a folder",
    errno.ENOSPC: "free space, or choose another -o",
    errno.EDQUOT: "free space within your quota, or choose another -o",
    errno.EROFS: "choose a folder with write permission",
}


def explain(subject: object, error: Exception, remedy: str = REPORT_IT) -> WsikdError:
    """The WsikdError for an exception.

    Args:
        subject: what was worked on; named where the exception itself names no file.
        error: a WsikdError is returned as it is; what the system refused becomes an OutputError,
            no memory a WsikdError, a dependency that is not installed a ConfigError, and anything
            else, which is a fault of the program, an UnforeseenError, which names the installed
            package whose code failed, if it is one's.
        remedy: remedy of an UnforeseenError.
    """
    if isinstance(error, WsikdError):
        return error
    if isinstance(error, MemoryError):
        fault = one_line(f"out of memory ({error})") if str(error) else "out of memory"
        return WsikdError(subject, fault, "lower --jobs, --threads or the batch size")
    if isinstance(error, OSError):
        return system_error(error, subject)
    if isinstance(error, ModuleNotFoundError) and (name := _top(error)) in _FULL:
        return _not_installed(subject, name)
    fault = f"unforeseen {type(error).__name__}" + (f": {error}" if str(error) else "")
    if (other := culprit(error)) is not None:
        return UnforeseenError(
            subject,
            f"{fault}, in the package {other.source}",
            f"report it to the authors of {other.package}",
        )
    return UnforeseenError(subject, fault, remedy)


def require(subject: object, *modules: str) -> None:
    """Refuse a command whose dependencies are not all installed, before it has done anything.

    Args:
        subject: the command.
        modules: keys of ``_FULL``.

    Raises:
        ConfigError: one is missing.
    """
    for name in modules:
        if find_spec(name) is None:
            raise _not_installed(subject, name)


def _not_installed(subject: object, module: str) -> ConfigError:
    fault = f"needs {_FULL[module]}, which is not installed"
    return ConfigError(subject, fault, "install wsikd with all its dependencies")


def _top(error: ModuleNotFoundError) -> str:
    """The package of a module that is not installed."""
    return (error.name or "").partition(".")[0]


def similar(path: str | Path) -> str:
    """The end of a remedy for a missing path: "; did you mean 'X'?" where X is beside it."""
    wanted = Path(path)
    try:
        names = [one.name for one in islice(wanted.parent.iterdir(), _LOOKED_AT)]
    except OSError:
        return ""
    close = get_close_matches(wanted.name, names, n=1, cutoff=0.75)
    return f"; did you mean '{wanted.parent / close[0]}'?" if close else ""


def system_error(error: OSError, subject: object = "file") -> OutputError:
    """An error of the system as OutputError; ``subject`` is used if it names no file."""
    reason = error.strerror or one_line(str(error)) or type(error).__name__
    usual = "check the path and its permissions" if error.errno else "check that it is whole"
    remedy = _OS_REMEDIES.get(error.errno or 0, usual)
    return OutputError(os.fsdecode(error.filename) if error.filename else subject, reason, remedy)

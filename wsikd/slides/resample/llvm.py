"""Functions written in LLVM's language, compiled at their first use in a process.

numba would compile Python, but loading it takes half a second of every process; LLVM alone takes a
tenth of that.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_compiled: list[Any] = []  # LLVM frees code without references


class Effort:
    """The pixels that a process has computed without a compiled function.

    To load LLVM and compile takes a tenth of a second. A process that reads a small slide or two
    takes less time without.

    Attributes:
        most: pixels that make the compiled function worth its start.
        pixels: computed so far. Threads may miss each other's: it is an estimate.
    """

    def __init__(self, most: int) -> None:
        """Nothing is computed yet."""
        self.most, self.pixels = most, 0

    def add(self, pixels: int) -> bool:
        """Count pixels; returns whether the compiled function is worth its start."""
        self.pixels += pixels
        return self.pixels >= self.most


def native(code: str, name: str, arguments: Sequence[Any]) -> Callable[..., None] | None:
    """Compile a function that returns nothing; it frees the interpreter.

    Args:
        code: a module in LLVM's language.
        name: name of the function in it.
        arguments: their types, of ctypes.

    Returns:
        The function; None where LLVM cannot compile for this machine.
    """
    try:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(code)
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=3,
        )
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        address = engine.get_function_address(name)
    except (ImportError, OSError, RuntimeError) as error:
        log.debug("%s is left to NumPy and OpenCV: %s", name, error)
        return None
    _compiled.append((machine, engine))
    return ctypes.CFUNCTYPE(None, *arguments)(address)


def vector(kind: str, values: Sequence[int]) -> str:
    """A constant vector of integers."""
    return "<" + ", ".join(f"{kind} {value}" for value in values) + ">"


def every(value: float, lanes: int) -> str:
    """A constant vector of one float32."""
    single = struct.unpack("f", struct.pack("f", value))[0]
    bits = struct.unpack("<Q", struct.pack("<d", single))[0]
    return "<" + ", ".join([f"float 0x{bits:016X}"] * lanes) + ">"

"""Means over squares of 2, 4 or 8 pixels, compiled by LLVM at their first use in a process.

OpenCV's INTER_AREA gives the same values to the bit and takes three to fifteen times as long.
"""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from wsikd.slides.resample.llvm import native, vector

if TYPE_CHECKING:
    from collections.abc import Callable

    Mean = Callable[[int, int, int, int, int, int], None]

FACTORS = (2, 4, 8)
LEAST_PX = 16
_ROWS_AHEAD = 8
_ARGUMENTS = (ctypes.c_void_p, ctypes.c_ssize_t) * 2 + (ctypes.c_size_t,) * 2
_lock = threading.Lock()


def mean_kernel(factor: int) -> Mean | None:
    """What averages squares of ``factor`` pixels, one of ``FACTORS``; it frees the interpreter.

    Returns:
        A function of (address of the source, bytes from row to row, address of the output, bytes
        from row to row, rows, columns), the last two of the output, with at least ``LEAST_PX``
        columns. Source and output are interleaved RGB of uint8, and nothing is checked. None where
        LLVM cannot compile for this machine.
    """
    with _lock:
        return _kernel(factor)


@lru_cache
def _kernel(factor: int) -> Mean | None:
    return native(_code(factor), "mean", _ARGUMENTS)


def _code(factor: int) -> str:
    """The kernel in LLVM's language: ``LEAST_PX`` pixels at once, the last ones twice if need be.

    Output rows to come are called into the processor's cache: they lie apart, so it does not guess.
    """
    wide, out = LEAST_PX * 3 * factor, LEAST_PX * 3
    return f"""
define void @mean(ptr %source, i64 %pitch, ptr %out, i64 %out_pitch, i64 %rows, i64 %columns) {{
start:
  %last = sub i64 %columns, {LEAST_PX}
  %far = mul i64 %out_pitch, {_ROWS_AHEAD}
  br label %line
line:
  %y = phi i64 [0, %start], [%next_y, %line_end]
  %from = phi ptr [%source, %start], [%next_from, %line_end]
  %to = phi ptr [%out, %start], [%next_to, %line_end]
  br label %block
block:
  %x = phi i64 [0, %line], [%next_x, %block]
  %left = call i64 @llvm.umin.i64(i64 %x, i64 %last)
  %read_at = mul i64 %left, {3 * factor}
  %write_at = mul i64 %left, 3
{_block(factor, wide, out)}
  %target = getelementptr i8, ptr %to, i64 %write_at
  %soon = getelementptr i8, ptr %target, i64 %far
  call void @llvm.prefetch.p0(ptr %soon, i32 1, i32 3, i32 1)
  store <{out} x i8> %result, ptr %target, align 1
  %next_x = add i64 %x, {LEAST_PX}
  %more = icmp ult i64 %next_x, %columns
  br i1 %more, label %block, label %line_end
line_end:
  %next_y = add i64 %y, 1
  %step = mul i64 %pitch, {factor}
  %next_from = getelementptr i8, ptr %from, i64 %step
  %next_to = getelementptr i8, ptr %to, i64 %out_pitch
  %again = icmp ult i64 %next_y, %rows
  br i1 %again, label %line, label %end
end:
  ret void
}}
declare i64 @llvm.umin.i64(i64, i64)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""


def _block(factor: int, wide: int, out: int) -> str:
    """Sums down, then across, then the division: ``wide`` x ``factor`` bytes to ``out`` bytes."""
    lines = []
    for row in range(factor):
        lines += [
            f"%skip{row} = mul i64 %pitch, {row}",
            f"%at{row} = add i64 %read_at, %skip{row}",
            f"%place{row} = getelementptr i8, ptr %from, i64 %at{row}",
            f"%bytes{row} = load <{wide} x i8>, ptr %place{row}, align 1",
            f"%row{row} = zext <{wide} x i8> %bytes{row} to <{wide} x i16>",
        ]
    lines += _sum("down", "row", factor, wide)
    for column in range(factor):
        lanes = [(i // 3 * factor + column) * 3 + i % 3 for i in range(out)]
        lines.append(
            f"%column{column} = shufflevector <{wide} x i16> %down, <{wide} x i16> poison, "
            f"<{out} x i32> {vector('i32', lanes)}"
        )
    lines += _sum("sum", "column", factor, out)
    return "\n".join(f"  {line}" for line in (*lines, *_divide(factor, out)))


def _sum(name: str, part: str, count: int, lanes: int) -> list[str]:
    lines, total = [], f"%{part}0"
    for i in range(1, count):
        result = f"%{name}" if i == count - 1 else f"%{name}{i}"
        lines.append(f"{result} = add <{lanes} x i16> {total}, %{part}{i}")
        total = result
    return lines


def _divide(factor: int, lanes: int) -> list[str]:
    """Divide, rounding to nearest; a half goes up for squares of 2, to even for larger ones."""
    kind, shift = f"<{lanes} x i16>", {2: 2, 4: 4, 8: 6}[factor]

    def every(value: int) -> str:
        return vector("i16", [value] * lanes)

    half = 1 << (shift - 1)
    if factor == 2:
        lines = [f"%rounded = add {kind} %sum, {every(half)}"]
    else:
        lines = [
            f"%floor = lshr {kind} %sum, {every(shift)}",
            f"%odd = and {kind} %floor, {every(1)}",
            f"%raised = add {kind} %sum, %odd",
            f"%rounded = add {kind} %raised, {every(half - 1)}",
        ]
    return [
        *lines,
        f"%mean = lshr {kind} %rounded, {every(shift)}",
        f"%result = trunc {kind} %mean to <{lanes} x i8>",
    ]

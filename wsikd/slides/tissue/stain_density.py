"""Optical density, saturation and what may be ink, of every pixel of a thumbnail in one pass."""

from __future__ import annotations

import ctypes
import math
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from wsikd.slides.resample.llvm import Effort, every, native, vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Mean optical density over the three channels. Clean glass stays below the lower bound, even the
# palest H&E stroma lies above the upper one; Otsu decides only in between, so that a slide of
# nothing but tissue, or of nothing but glass, is not split in two. Likewise for saturation.
DENSITY_RANGE = (0.04, 0.10)
SATURATION_RANGE = (0.03, 0.06)
GREY_DENSITY = 0.30
GREY_SATURATION = 0.12
COLD_DENSITY = 0.12
RED_DENSITY = 0.25
STAINED, BLACK, MAY_BE_INK = 1, 2, 4
_MIN_CHROMA = 8
_BLACK = 50
_DENSITY_OF = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)

# Half planes in which the hues of inks lie, with a degree to spare: 2 R - G - B is at least, or at
# most, so many times G - B, all densities. Two are of cold hues (255 to 76 degrees),
# one of reds (from 150).
_COLD_SIDES = tuple(math.sqrt(3) / math.tan(math.radians(hue)) for hue in (77, 74))
_RED_SIDE = math.sqrt(3) / math.tan(math.radians(149))
_GREY_X, _GREY_Y = 3 * 1.01 * GREY_SATURATION, math.sqrt(3) * 1.01 * GREY_SATURATION

_LANES = 16
_STRIP_PX = 1 << 16
_ARGUMENTS = (ctypes.c_void_p,) * 5 + (ctypes.c_size_t,)
_lock = threading.Lock()
_by_numpy = Effort(4 << 20)
"""Pixels that NumPy looks at before LLVM is loaded: it takes 25 ms a megapixel longer."""


class Look(NamedTuple):
    """Planes of uint8 (height, width).

    ``density`` and ``saturation`` go from 0 to twice the upper bound of their range in 255 steps.
    ``marks`` are bits: STAINED, of some colour; BLACK, dark in all channels; MAY_BE_INK, of a
    density and hue, or a grey, that an ink may have: all inks are marked, and few of the rest.
    """

    density: NDArray[np.uint8]
    saturation: NDArray[np.uint8]
    marks: NDArray[np.uint8]


def look(rgb: NDArray[np.uint8]) -> Look:
    """Look at every pixel of uint8 (height, width, 3)."""
    rgb = np.ascontiguousarray(rgb)
    found = Look(*(np.empty(rgb.shape[:2], np.uint8) for _ in range(3)))
    worth = _by_numpy.add(found.marks.size)
    kernel = _kernel() if worth and found.marks.size >= _LANES else None
    if kernel:
        places = [a.ctypes.data for a in (rgb, _DENSITY_OF, *found)]
        kernel(*places, found.marks.size)
    else:
        _look_by_numpy(rgb, found)
    return found


def hsd(
    rgb: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean optical density, saturation, and hue in degrees (0 to 360): float32 (height, width).

    Density does not change the other two, as lightness does in HSV.

    Source: van der Laak et al. 2000, eqs. 3 to 7.
    """
    red, green, blue = (_density(plane) for plane in cv2.split(rgb))
    mean = (red + green + blue) / np.float32(3)
    safe = np.maximum(mean, np.float32(1e-3))
    x, y = red / safe - 1, (green - blue) / (np.sqrt(np.float32(3)) * safe)
    size, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    return np.asarray(mean), np.asarray(size, np.float32), np.asarray(angle, np.float32)


def _density(values: Any) -> NDArray[np.float32]:
    return np.asarray(cv2.LUT(values, _DENSITY_OF), np.float32)


def _look_by_numpy(rgb: NDArray[np.uint8], found: Look) -> None:
    """Compute it without the kernel, some rows at a time, since float planes take much memory."""
    step = max(1, _STRIP_PX // max(1, rgb.shape[1]))
    for first in range(0, len(rgb), step):
        rows = slice(first, first + step)
        planes: Any = cv2.split(rgb[rows])
        red, green, blue = (_density(plane) for plane in planes)
        mean = (red + green + blue) / np.float32(3)
        top = np.maximum.reduce(planes)
        chroma = top - np.minimum.reduce(planes)
        share = chroma / np.maximum(top, 1).astype(np.float32)
        x, y = 2 * red - green - blue, green - blue
        may = (x <= _RED_SIDE * y) & (mean > RED_DENSITY)
        cold = (x >= _COLD_SIDES[0] * y) | (x >= _COLD_SIDES[1] * y)
        may |= cold & (mean > COLD_DENSITY)
        grey = (np.abs(x) < _GREY_X * mean) & (np.abs(y) < _GREY_Y * mean)
        may |= grey & (mean > GREY_DENSITY)
        found.density[rows] = _scaled(mean, DENSITY_RANGE)
        found.saturation[rows] = _scaled(share, SATURATION_RANGE)
        found.marks[rows] = (
            STAINED * (chroma >= _MIN_CHROMA) + BLACK * (top < _BLACK) + MAY_BE_INK * may
        )


def _scaled(values: NDArray[np.floating], bounds: tuple[float, float]) -> NDArray[np.uint8]:
    """From 0 to twice the upper bound in 255 steps."""
    return np.asarray(np.clip(values / bounds[1] * 127.5, 0, 255), np.float32).astype(np.uint8)


def _kernel() -> Callable[..., None] | None:
    with _lock:
        return _compiled()


@lru_cache
def _compiled() -> Callable[..., None] | None:
    return native(_code(), "look", _ARGUMENTS)


def _code() -> str:
    """``_look_by_numpy`` in LLVM's language: 16 pixels at once, the last ones twice if need be."""
    n, byte, real = _LANES, f"<{_LANES} x i8>", f"<{_LANES} x float>"
    wide, gather = f"<{3 * n} x i8>", f"@llvm.masked.gather.v{n}f32.v{n}p0"
    rest = f"<{n} x i1> {vector('i1', [1] * n)}, {real} poison"
    lines = []
    for k, name in enumerate("rgb"):
        lanes = vector("i32", [3 * i + k for i in range(n)])
        lines += [
            f"%{name} = shufflevector {wide} %bytes, {wide} poison, <{n} x i32> {lanes}",
            f"%{name}.at = zext {byte} %{name} to <{n} x i64>",
            f"%{name}.in = getelementptr float, ptr %table, <{n} x i64> %{name}.at",
            f"%{name}.d = call {real} {gather}(<{n} x ptr> %{name}.in, i32 4, {rest})",
        ]

    def do(name: str, operation: str, kind: str, first: str, second: str | float) -> None:
        other = every(second, n) if isinstance(second, float) else second
        lines.append(f"%{name} = {operation} {kind} {first}, {other}")

    def pick(name: str, test: str, kind: str, first: str, second: str) -> None:
        """The one of two that a comparison selects."""
        do(f"{name}.is", test, kind, first, second)
        lines.append(f"%{name} = select <{n} x i1> %{name}.is, {kind} {first}, {kind} {second}")

    def scale(name: str, value: str, bounds: tuple[float, float]) -> None:
        do(f"{name}.part", "fdiv", real, value, float(bounds[1]))
        do(f"{name}.steps", "fmul", real, f"%{name}.part", 127.5)
        pick(f"{name}.cut", "fcmp olt", real, f"%{name}.steps", every(255.0, n))
        lines.append(f"%{name}.level = fptoui {real} %{name}.cut to {byte}")

    def both(name: str, *tests: str, operation: str = "and") -> None:
        do(name, operation, f"<{n} x i1>", *tests)

    do("two", "fadd", real, "%r.d", "%g.d")
    do("three", "fadd", real, "%two", "%b.d")
    do("mean", "fdiv", real, "%three", 3.0)
    scale("density", "%mean", DENSITY_RANGE)
    for name, test in (("top", "icmp ugt"), ("low", "icmp ult")):
        pick(f"{name}.rg", test, byte, "%r", "%g")
        pick(name, test, byte, f"%{name}.rg", "%b")
    do("chroma", "sub", byte, "%top", "%low")
    pick("some", "icmp ugt", byte, "%top", vector("i8", [1] * n))
    lines.append(f"%chroma.real = uitofp {byte} %chroma to {real}")
    lines.append(f"%some.real = uitofp {byte} %some to {real}")
    do("share", "fdiv", real, "%chroma.real", "%some.real")
    scale("saturation", "%share", SATURATION_RANGE)
    do("twice", "fmul", real, "%r.d", 2.0)
    do("x.g", "fsub", real, "%twice", "%g.d")
    do("x", "fsub", real, "%x.g", "%b.d")
    do("y", "fsub", real, "%g.d", "%b.d")
    first, second = _COLD_SIDES
    for name, test, side in (
        ("red", "ole", _RED_SIDE),
        ("cold0", "oge", first),
        ("cold1", "oge", second),
    ):
        do(f"{name}.side", "fmul", real, "%y", side)
        do(f"{name}.hue", f"fcmp {test}", real, "%x", f"%{name}.side")
    both("cold.hue", "%cold0.hue", "%cold1.hue", operation="or")
    for name, side in (("x", _GREY_X), ("y", _GREY_Y)):
        lines.append(f"%{name}.abs = call {real} @llvm.fabs.v{n}f32({real} %{name})")
        do(f"{name}.most", "fmul", real, "%mean", side)
        do(f"{name}.grey", "fcmp olt", real, f"%{name}.abs", f"%{name}.most")
    both("grey.hue", "%x.grey", "%y.grey")
    kinds = (("red", RED_DENSITY), ("cold", COLD_DENSITY), ("grey", GREY_DENSITY))
    for name, dense in kinds:
        do(f"{name}.dense", "fcmp ogt", real, "%mean", dense)
        both(f"{name}.may", f"%{name}.hue", f"%{name}.dense")
    both("may.ink", "%red.may", "%cold.may", operation="or")
    both("may", "%may.ink", "%grey.may", operation="or")
    do("stained", "icmp uge", byte, "%chroma", vector("i8", [_MIN_CHROMA] * n))
    do("black", "icmp ult", byte, "%top", vector("i8", [_BLACK] * n))
    for name, bit in (("stained", STAINED), ("black", BLACK), ("may", MAY_BE_INK)):
        lines.append(f"%{name}.bit = select <{n} x i1> %{name}, {byte} "
                     f"{vector('i8', [bit] * n)}, {byte} zeroinitializer")  # fmt: skip
    do("marks.two", "or", byte, "%stained.bit", "%black.bit")
    do("marks.level", "or", byte, "%marks.two", "%may.bit")
    for name in ("density", "saturation", "marks"):
        lines += [
            f"%{name}.to = getelementptr i8, ptr %{name}, i64 %at",
            f"store {byte} %{name}.level, ptr %{name}.to, align 1",
        ]
    body = "\n".join(f"  {line}" for line in lines)
    return f"""
define void @look(ptr %rgb, ptr %table, ptr %density, ptr %saturation, ptr %marks, i64 %count) {{
start:
  %last = sub i64 %count, {n}
  br label %block
block:
  %i = phi i64 [0, %start], [%next, %block]
  %at = call i64 @llvm.umin.i64(i64 %i, i64 %last)
  %skip = mul i64 %at, 3
  %from = getelementptr i8, ptr %rgb, i64 %skip
  %bytes = load {wide}, ptr %from, align 1
{body}
  %next = add i64 %i, {n}
  %more = icmp ult i64 %next, %count
  br i1 %more, label %block, label %end
end:
  ret void
}}
declare i64 @llvm.umin.i64(i64, i64)
declare {real} @llvm.fabs.v{n}f32({real})
declare {real} {gather}(<{n} x ptr>, i32, <{n} x i1>, {real})
"""

"""Bags: the embeddings of one slide's patches, as Zarr, or as the HDF5 of CLAM and TRIDENT.

Layout of ``<slide>.zarr``::

    features    float32 (N, D), or float32 or float16 (N, D, g, g) for regions of g x g tiles
    coords      float64 (N, 2), level-0 (x, y) of the patches' corners

The attribute ``wsikd_bag`` (:class:`wsikd.bags.metadata.BagMeta`) has the slide, the encoder with
its transform and licence, the patches' size, and the mark of completeness, which is written last.
Arrays are not compressed;
the regions of a slide lie in one chunk, so that any can be mapped (``wsikd.bags.region_table``).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from wsikd.bags.h5_text import text_attribute
from wsikd.bags.metadata import BagMeta
from wsikd.core.errors import UNREADABLE, DataError, OutputError
from wsikd.core.output.files import aside, check_file
from wsikd.core.output.markers import BAG, GRID, FileKind
from wsikd.core.output.place import Place
from wsikd.tiles.arrays import member

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import h5py
    from numpy.typing import NDArray

ATTRIBUTE = "wsikd_bag"
FORMAT = 1
H5_SUFFIXES = (".h5", ".hdf5")
_CHUNK_BYTES = 1 << 20
_REGIONS_BYTES = 1 << 28
REMEDY = "make it again with wsikd embed, or leave it out"


@dataclass(frozen=True)
class BagInfo:
    """The description of a bag.

    Attributes:
        slide: name of the slide.
        encoder: id, licence, transform and digest of what made the embeddings; empty if unknown.
        mpp: um per pixel of the patches; None if a foreign file does not state it.
        patch_px: side of a patch at ``mpp``; None as before.
        field_px: level-0 (width, height) of a patch; None as before.
        patient: hashed patient, if known.
        split: train, val or test, if given.
        label: class of the slide, if given.
        source: digest of the store or slide that the patches came from.
    """

    slide: str
    encoder: Mapping[str, Any] = field(default_factory=dict)
    mpp: float | None = None
    patch_px: int | None = None
    field_px: tuple[float, float] | None = None
    patient: str | None = None
    split: str | None = None
    label: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Bag:
    """A bag on disk, its description read and its shape checked.

    Attributes:
        path: the file or folder.
        info: see :class:`BagInfo`.
        shape: shape of the features, (N, D) or (N, D, g, g).
        seconds: what reading the patches and computing took, by stage, where that is kept.
    """

    path: Path
    info: BagInfo
    shape: tuple[int, ...]
    seconds: Mapping[str, float] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.shape[1]

    def features(self) -> NDArray[np.float32]:
        """All embeddings, float32 of ``shape``; raises DataError where they cannot be read."""
        found = _numbers(self.path, "features", np.float32)
        if found.size != math.prod(self.shape):
            raise DataError(self.path, f"has features of shape {found.shape}", REMEDY)
        found = found.reshape(self.shape)
        if not np.isfinite(found).all():
            raise DataError(self.path, "holds NaN or infinity", REMEDY)
        return found

    def coords(self) -> NDArray[np.float64]:
        """Level-0 (x, y) of the patches' corners, float64 (N, 2).

        Raises:
            DataError: there are none, or not one for each embedding.
        """
        found = _numbers(self.path, "coords", np.float64)
        if found.ndim == 3 and len(found) == 1:
            found = found[0]
        if found.shape != (len(self), 2):
            fault = f"has coords of shape {found.shape} for {len(self)} embeddings"
            raise DataError(self.path, fault, REMEDY)
        if not np.isfinite(found).all():
            raise DataError(self.path, "has coords of NaN or infinity", REMEDY)
        return found


def open_bag(path: str | Path) -> Bag:
    """Open a bag of ours, or an ``.h5`` of CLAM or TRIDENT with a dataset ``features``.

    Raises:
        DataError: there is none, it is unfinished, damaged, or of another kind.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(path, "does not exist", "make it with wsikd embed")
    return _open_h5(path) if path.suffix.lower() in H5_SUFFIXES else _open_zarr(path)


def find_bags(paths: Iterable[str | Path]) -> list[Path]:
    """The bags named, and those in the folders named, sorted, each once.

    Of a folder's ``s.zarr`` and ``s.h5``, as ``wsikd embed --h5`` makes them, the bag is taken.

    Raises:
        DataError: a path does not exist, or a folder holds none.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(path, "does not exist", "give a bag or a folder of bags")
        if path.is_dir() and not (path / "zarr.json").is_file():
            inside = sorted(
                p for p in path.iterdir()
                if (p.suffix == ".zarr" and p.is_dir()) or p.suffix.lower() in H5_SUFFIXES
            )  # fmt: skip
            if not inside:
                raise DataError(path, "contains no bags", "make them with wsikd embed")
            bags = {p.stem for p in inside if _is_bag(p)}
            inside = [p for p in inside if p.is_dir() or p.stem not in bags]
            found.update(dict.fromkeys(inside))
        else:
            found[path] = None
    return list(found)


def _is_bag(path: Path) -> bool:
    try:
        about = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return ATTRIBUTE in about["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_bag(
    path: Path,
    info: BagInfo,
    features: NDArray[np.floating],
    xy: NDArray[np.float64],
    seconds: Mapping[str, float] | None = None,
    inputs: Sequence[Path] = (),
) -> None:
    """Write a bag whole or not at all, replacing a bag of the same kind.

    Call it under the lock of ``path``.

    Args:
        path: the Zarr folder.
        info: what describes it.
        features: float32 (N, D) or (N, D, g, g); of the latter, float16 as well.
        xy: level-0 corners, float64 (N, 2).
        seconds: by stage, of its making.
        inputs: what it was made from, which it must not replace.

    Raises:
        OutputError: the disk does not take it, or something else is there.
    """
    if len(features) != len(xy) or features.ndim not in (2, 4):
        raise ValueError(f"features {features.shape} do not go with coords {xy.shape}")
    row = features[0].nbytes if len(features) else 1
    most = max(1, (_CHUNK_BYTES if features.ndim == 2 else _REGIONS_BYTES) // max(1, row))
    pieces = max(1, -(-len(features) // most))
    rows = max(1, -(-len(features) // pieces))  # alike, since Zarr fills the last one up
    with bag_place(path, regions=features.ndim == 4, inputs=inputs).made() as part:
        group = zarr.create_group(part, zarr_format=3)
        _put(group, "features", features, rows)
        _put(group, "coords", xy, max(1, len(xy)))
        group.attrs[ATTRIBUTE] = {
            "format": FORMAT, **asdict(info), "encoder": dict(info.encoder),
            "seconds": None if seconds is None else dict(seconds), "complete": True,
        }  # fmt: skip


def bag_place(path: Path, *, regions: bool, inputs: Sequence[Path] = ()) -> Place:
    """Where a bag of patches or of regions goes; see :class:`wsikd.core.output.place.Place`."""
    return Place(path, GRID if regions else BAG, path.parent, inputs)


def _put(group: zarr.Group, name: str, values: NDArray[Any], rows: int) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(rows, *values.shape[1:]),
        dtype=values.dtype,
        compressors=None,
        config={"write_empty_chunks": True},  # so that a lost chunk is not read as zeros
    )
    if len(values):
        array[...] = values


def write_h5(path: Path, bag: Bag, *, overwrite: bool = False) -> None:
    """Write a bag as CLAM and TRIDENT keep features: ``features`` (N, D), ``coords`` (N, 2).

    ``coords`` is int64, rounded to whole level-0 px, with the attributes that TRIDENT reads.

    Raises:
        OutputError: the file exists, or cannot be written.
        DataError: the bag cannot be read, or holds regions.
    """
    import h5py

    check_file(path, _H5)
    if path.exists() and not overwrite:
        raise OutputError(path, "exists", "choose another -o, or replace it with --overwrite")
    if len(bag.shape) != 2:
        raise DataError(bag.path, "holds regions, not patches", "export bags of patches")
    features, xy = bag.features(), bag.coords()
    info = bag.info
    with aside(path, _H5) as part, h5py.File(part, "w") as file:
        file.attrs["wsikd"] = FORMAT
        stored = file.create_dataset("features", data=features)
        stored.attrs["name"] = info.slide
        stored.attrs["encoder"] = str(info.encoder.get("id", "unknown"))
        coords = file.create_dataset("coords", data=np.rint(xy).astype(np.int64))
        coords.attrs["name"] = info.slide
        if info.patch_px is not None:
            coords.attrs["patch_size"] = info.patch_px
        if info.field_px is not None:
            coords.attrs["patch_size_level0"] = round(sum(info.field_px) / 2)
        if info.mpp is not None:
            coords.attrs["target_magnification"] = 10 / info.mpp


def _is_our_h5(file: Path) -> bool:
    """By its mark; files of wsikd 0.1.0 have no mark, but our attributes and a bag beside them."""
    import h5py

    try:
        with h5py.File(file, "r") as h5:
            if "wsikd" in h5.attrs:
                return True
            about = dict(h5["features"].attrs)
    except (OSError, KeyError, ValueError):
        return False
    return set(about) == {"name", "encoder"} and BAG.own(file.with_suffix(".zarr"))


_H5 = FileKind("a feature file", _is_our_h5)


def _open_zarr(path: Path) -> Bag:
    try:
        group = zarr.open_group(path, mode="r")
        about = dict(group.attrs).get(ATTRIBUTE)
        if not isinstance(about, dict):
            raise DataError(path, "is not a bag of embeddings", "make bags with wsikd embed")
        if not about.get("complete"):
            raise DataError(path, "was left unfinished", "run wsikd embed again")
        shape = tuple(int(n) for n in member(group, "features").shape)
        meta = BagMeta.of(about)
    except DataError:
        raise
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    return replace(_checked(path, _info(meta, about), shape), seconds=meta.seconds)


def _info(meta: BagMeta, about: Mapping[str, Any]) -> BagInfo:
    size = meta.field_px
    return BagInfo(
        slide=meta.slide,
        encoder=dict(about.get("encoder") or {}),
        mpp=meta.mpp,
        patch_px=None if meta.patch_px is None else round(meta.patch_px),
        field_px=None if size is None else (size[0], size[1]),
        patient=meta.patient,
        split=meta.split,
        label=meta.label,
        source=meta.source,
    )


def _positive(value: Any) -> float | None:
    """A positive number of an ordinary size, or None; raises TypeError, ValueError."""
    if value is None or (isinstance(value, int | float) and 1e-6 < value < 2**40):
        return None if value is None else float(value)
    raise ValueError(f"{value!r} is not a size")


def _least(value: Any) -> float:
    found = _positive(value)
    if found is None:
        raise ValueError("a size is missing")
    return found


def _sizes(attributes: h5py.AttributeManager) -> dict[str, float]:
    names = ("patch_size_level0", "target_magnification", "patch_size")
    numbers = (n for n in names if n in attributes and attributes.get_id(n).dtype.kind in "iuf")
    return {name: float(attributes[name]) for name in numbers}


def _open_h5(path: Path) -> Bag:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "features" not in file:
                known = ", ".join(file) or "nothing"
                raise DataError(
                    path, f"has no dataset 'features' (it holds {known})",
                    "give feature files, not files of coordinates",
                )  # fmt: skip
            shape = tuple(int(n) for n in file["features"].shape)
            about = _sizes(file["coords"].attrs) if "coords" in file else {}
            encoder = text_attribute(path, file["features"].attrs, "encoder")
            side = about.get("patch_size_level0")
            magnification = about.get("target_magnification")
            info = BagInfo(
                slide=path.stem,
                encoder={} if encoder is None else {"id": encoder},
                mpp=None if not magnification else _positive(10 / float(magnification)),
                patch_px=None if "patch_size" not in about else int(about["patch_size"]),
                field_px=None if side is None else (_least(float(side)), _least(float(side))),
            )
    except DataError:
        raise
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    if len(shape) == 3 and shape[0] == 1:  # as some versions of TRIDENT keep them
        shape = shape[1:]
    return _checked(path, info, shape)


def _checked(path: Path, info: BagInfo, shape: tuple[int, ...]) -> Bag:
    if len(shape) not in (2, 4) or not shape[1]:
        raise DataError(path, f"has features of shape {shape}, not (N, D)", REMEDY)
    return Bag(path, info, shape)


def _numbers(path: Path, name: str, dtype: type) -> NDArray[Any]:
    found = np.asarray(_read(path, name))
    if found.dtype.kind not in "iuf":
        raise DataError(path, f"has {name} of {found.dtype}, not numbers", REMEDY)
    with np.errstate(all="ignore"):
        return np.asarray(found, dtype)


def _read(path: Path, name: str) -> Any:
    try:
        if path.suffix.lower() in H5_SUFFIXES:
            import h5py

            with h5py.File(path, "r") as file:
                return file[name][...]
        array = member(zarr.open_group(path, mode="r"), name)
        if array.nchunks_initialized < array.nchunks and array.size:
            raise DataError(path, f"chunks of its {name} are missing", REMEDY)
        return array[...]
    except DataError:
        raise
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(path, f"cannot be read ({type(error).__name__}: {error})", REMEDY)

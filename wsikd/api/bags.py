"""``wsikd.embed``: slides become bags of embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from wsikd.api.many import Many, One, failures_of, names_of
from wsikd.bags.bag import Bag, open_bag
from wsikd.core.output.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Unpack

    from wsikd.core.errors import WsikdError


class EmbedOptions(TypedDict, total=False):
    """How bags are made. Missing options have the defaults of ``wsikd embed``.

    Attributes:
        licence: terms of the weights, kept in every bag.
        stride_px: distance of patches in px; default their side.
        h5: write ``<slide>.h5`` as CLAM and TRIDENT keep it, too.
        tissue: "otsu", "all", another masker, your own mask, or a folder of masks.
        min_tissue: smallest share of tissue in a patch, 0 to 1.
        slide_mpp: um per level-0 pixel, for slides where neither manifest nor file says it.
        reader: "auto", "openslide", "direct" or "tiatoolbox".
        series: which image of a file with several; default the largest scan.
        accept_grey: read slides that are not brightfield.
        overwrite: embed again, replacing what is there.
    """

    licence: str | None
    stride_px: int | None
    h5: bool
    tissue: str
    min_tissue: float
    slide_mpp: float | None
    reader: str
    series: int | None
    accept_grey: bool
    overwrite: bool


class Bags(Mapping[str, Bag]):
    """The bags of a run, opened when they are asked for, and the slides that failed.

    Attributes:
        path: the folder.
        paths: slide name -> its bag.
        failures: slide name -> its error.
        summary: how many were made and how many were already there.

    Examples:
        >>> import wsikd
        >>> bags = wsikd.embed("stores", "bags", encoder="runs/student")
        >>> sorted(bags), len(bags["a"]), bags["a"].dim
        (['a', 'b'], 12, 32)
    """

    def __init__(
        self,
        path: Path,
        paths: Mapping[str, Path],
        failures: Mapping[str, WsikdError],
        summary: str,
    ) -> None:
        """Use :func:`embed`."""
        self.path, self.paths = path, dict(paths)
        self.failures, self.summary = dict(failures), summary

    def __fspath__(self) -> str:
        return str(self.path)

    def __getitem__(self, name: str) -> Bag:
        """Open the bag of a slide."""
        return open_bag(self.paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"Bags('{self.path}', {self.summary}{failed})"

    def _repr_html_(self) -> str:
        from wsikd.slides.html import table

        rows: list[list[object]] = [
            [name, len(bag), bag.dim, bag.info.encoder.get("id", "unknown"), ""]
            for name, bag in self.items()
        ]
        rows += [[name, "", "", "", error] for name, error in self.failures.items()]
        columns = ["slide", "embeddings", "numbers in each", "encoder", "failure"]
        return table(repr(self), columns, rows)


def embed(
    slides: One | Many,
    out: One,
    *,
    encoder: One,
    weights: str | None = None,
    mpp: float | None = None,
    patch_px: int | None = None,
    device: str = "auto",
    batch_size: int = 32,
    threads: int | None = None,
    precision: str = "auto",
    **options: Unpack[EmbedOptions],
) -> Bags:
    """Turn patches into embeddings with a frozen network, one bag a slide.

    A bag that is there is kept; one of other settings is refused. A slide that fails does not stop
    the others.

    Args:
        slides: a slide, folder, glob, CSV manifest or tile store, or a list of them.
        out: folder for one ``<slide>.zarr`` a slide.
        encoder: "timm:NAME", a run of ``wsikd distill`` or a bundle, a file of a transformer
            trained by DINO, or "PREFIX:ARGUMENT" of an installed package.
        weights: local weights of a network of timm; "random" for none; default timm's hub.
        mpp: um per pixel of the patches; default the encoder's.
        patch_px: patch side in px; default the encoder's.
        device: "auto", "cpu" or "cuda:0".
        batch_size: patches in a step.
        threads: reading threads; default one a core.
        precision: "fp32", "fp16" (GPUs only), or "auto": fp16 on GPUs, if the first patches get
            nearly the same embeddings as in fp32.
        options: see :class:`EmbedOptions`.

    Returns:
        The bags, and the failures by slide.

    Raises:
        WsikdError: nothing can be embedded: the encoder, a setting, the inputs or ``out``.

    Examples:
        >>> import wsikd
        >>> wsikd.embed("s.svs", "new-bags", encoder="runs/student")["s"].dim
        32
    """
    from wsikd.bags.run import EmbedRequest, Machine, embed_all
    from wsikd.core.errors import ConfigError
    from wsikd.core.registry import nearest
    from wsikd.slides.threads import use_threads

    for name in options:
        if name not in EmbedOptions.__annotations__:
            known = [*EmbedOptions.__annotations__, "weights", "mpp", "patch_px", "device"]
            raise ConfigError(name, "is not an option of wsikd.embed", nearest(name, known))
    request = EmbedRequest(
        names_of(slides), Path(out), str(encoder), weights, mpp=mpp, patch_px=patch_px, **options
    )
    batch = Batch(Path(out))
    done = embed_all(request, Machine(device, batch_size, use_threads(threads), precision), batch)
    batch.keep_failures(logging.WARNING)
    return Bags(Path(out), done.paths, failures_of(batch), done.summary)

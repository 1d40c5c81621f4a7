"""Networks of timm by name, as backbones with taps: ``timm:convnext_tiny``.

Any model that offers its intermediate maps will do. Taps end in ``F4``, the deepest, as those of
our own networks: a network of four stages has F1 to F4 at strides 4 to 32, one of five F0 to F4. A
vision transformer has F1 to F4 after each quarter of its blocks, its class token left out, F4 after
the final norm; its position embedding is resampled to the patch at hand.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import Backbone, Tap

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "timm:"
SIZES: tuple[dict[str, Any], ...] = (
    {"strict_img_size": False},
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {},
)
MOST_TAPS = 5


class TimmBackbone(Backbone):
    """A model of timm without its head."""

    def __init__(self, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Make ``name``.

        Args:
            name: name in timm.
            weights: state dict in timm's own names, a head in it is ignored; None: random.

        Raises:
            ConfigError: timm does not know it, or it offers no intermediate maps.
            RuntimeError: the weights do not fit.
        """
        net = _create(name)
        if weights is not None:
            _load(net, weights)
        prefix = getattr(net, "num_prefix_tokens", None)
        levels = [(int(i["num_chs"]), int(i["reduction"])) for i in net.feature_info]
        if prefix is None:
            places = list(range(len(levels)))[-MOST_TAPS:]
        else:
            places = [(len(levels) * quarter) // 4 - 1 for quarter in (1, 2, 3, 4)]
        net.prune_intermediate_layers(places, prune_norm=prefix is None, prune_head=True)
        if hasattr(net, "head"):  # some keep a norm there, which nothing would train
            net.head = nn.Identity()
        first = MOST_TAPS - len(places)
        taps = {f"F{first + i}": Tap(*levels[p]) for i, p in enumerate(places)}
        super().__init__([("net", net, Tap(*levels[-1]))])
        self.taps, self.deepest = taps, next(reversed(taps))
        self._places, self._prefix = places, prefix

    def run_to(self, x: Tensor, name: str) -> Tensor:
        """One tap, and no stage behind it."""
        if name == self.deepest:
            return self(x)  # type: ignore[no-any-return]
        net: Any = self.stages["net"]
        place = self._places[list(self.taps).index(name)]
        (found,) = net.forward_intermediates(
            x, indices=[place], intermediates_only=True, stop_early=True, output_fmt="NCHW"
        )
        return found  # type: ignore[no-any-return]

    def _run(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        net: Any = self.stages["net"]
        if self._prefix is None:
            maps = net.forward_intermediates(
                x, indices=self._places, intermediates_only=True, output_fmt="NCHW"
            )
            return dict(zip(self.taps, maps, strict=True))
        tokens, maps = net.forward_intermediates(x, indices=self._places, output_fmt="NCHW")
        found = dict(zip(self.taps, maps, strict=True))
        normed = tokens[:, self._prefix :].transpose(1, 2)
        found[self.deepest] = normed.reshape(maps[-1].shape)
        return found


def _create(name: str) -> Any:
    import timm

    _check_known(name)
    for options in SIZES:  # the first that the model understands
        try:
            net = timm.create_model(name, pretrained=False, num_classes=0, **options)
        except TypeError:
            continue
        if hasattr(net, "prune_intermediate_layers"):
            return net
        break
    raise ConfigError(
        f"network.arch {PREFIX}{name}", "offers no intermediate maps", "choose another model"
    )


def _check_known(name: str) -> None:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        remedy = f"did you mean '{PREFIX}{close[0]}'?" if close else "see timm.list_models()"
        raise ConfigError(f"network.arch {PREFIX}{name}", "no model of timm", remedy)


def _load(net: Any, weights: Mapping[str, Tensor]) -> None:
    """Every weight of ``net`` from ``weights``; what else is there belongs to the head."""
    own = net.state_dict()
    net.load_state_dict({k: v for k, v in weights.items() if k in own})


def timm_names(name: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model of timm, head included. Raises ConfigError."""
    import timm

    _check_known(name)
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = timm.create_model(name)
    return {k: tuple(v.shape) for k, v in net.state_dict().items()}


def timm_norm(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the input that timm's weights of a model were trained with."""
    import timm

    found = timm.get_pretrained_cfg(name)
    return None if found is None else (tuple(found.mean), tuple(found.std))


def timm_weights(name: str) -> tuple[Mapping[str, Tensor], str | None]:
    """Pretrained weights of a model of timm, from its hub, and their licence where timm states it.

    Raises:
        ConfigError: there are none, or they cannot be fetched.
    """
    import timm

    subject = f"network.init: imagenet ({PREFIX}{name})"
    try:
        net: Any = timm.create_model(name, pretrained=True, num_classes=0)
    except RuntimeError as error:
        raise ConfigError(
            subject, "timm has no weights for it", "use network.init: random"
        ) from error
    except OSError as error:
        raise ConfigError(
            subject,
            "the weights cannot be downloaded",
            "set network.weights to a local copy or to package:NAME, or network.init: random",
        ) from error
    return net.state_dict(), net.pretrained_cfg.get("license")

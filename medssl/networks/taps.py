"""Where a network can be tapped: the levels of its encoder, and what its head sees.

By forward hooks, so that networks stay as they are. A network of one's own says it by a class
attribute ``taps``; those that come with the package are listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medssl.errors import MedSSLError
from medssl.networks.build import blueprint_of
from medssl.networks.whole_batch import Rows, WholeDropout2d, WholeDropout3d, rows_here

EDGES = (512, 512, 512)
"""Of an image that a network of nine levels can be shown; without values it takes no memory."""


@dataclass(frozen=True)
class Taps:
    """Modules of a network by name, as :meth:`torch.nn.Module.get_submodule` takes them.

    Attributes:
        levels: their outputs are the levels of the encoder, finest first.
        head: its input is what the logits are made of.
    """

    levels: tuple[str, ...]
    head: str


@dataclass
class Features:
    """What the last pass through a tapped network left.

    Attributes:
        levels: features of the encoder ``(B, C_i, *spatial_i)``, finest first.
        penultimate: what the head saw, ``(B, C, *spatial)``; empty before the first pass.
        rows: which samples of the batch these are, where processes share it; None: all of them.
    """

    levels: list[Tensor] = field(default_factory=list)
    penultimate: Tensor = field(default_factory=lambda: Tensor())
    rows: Rows | None = None


@contextmanager
def taps(network: nn.Module) -> Iterator[Features]:
    """Keep the features of every pass through a network inside, each pass in place of the last.

    They are part of the graph, and live as long as what is yielded, or until the next pass.

    Raises:
        MedSSLError: nobody said where the network can be tapped.
    """
    where, found = taps_of(network), Features()

    def begin(*_: object) -> None:
        found.levels.clear()

    def level(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        found.levels.append(out)

    def head(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.penultimate, found.rows = inputs[0], rows_here()

    hooks = [network.register_forward_pre_hook(begin)]
    hooks += [network.get_submodule(n).register_forward_hook(level) for n in where.levels]
    hooks.append(network.get_submodule(where.head).register_forward_pre_hook(head))
    with _hooked(network, hooks):
        yield found


def tapped_channels(build: Callable[[], nn.Module], spatial_dims: int) -> int:
    """Return how many channels all levels and the penultimate features of a network have.

    Args:
        build: makes the network; it is built and passed once without memory and values.
        spatial_dims: 2 or 3.

    Returns:
        The sum; 0 where nobody said where the network can be tapped, and where it cannot be built
        or passed without values.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            network = build().eval()
            blueprint = blueprint_of(network)
            image = torch.zeros(1, blueprint.in_channels if blueprint else 1, *EDGES[:spatial_dims])
            with taps(network) as found:
                network(image)
        except (MedSSLError, RuntimeError, TypeError, ValueError):
            return 0
    return sum(each.shape[1] for each in (*found.levels, found.penultimate))


@contextmanager
def dropped(network: nn.Module, share: float) -> Iterator[None]:
    """Drop channels of every level of a network's encoder in each pass inside.

    What is left of a level goes to the next one and to the decoder, scaled by ``1 / (1 - share)``;
    torch's generator draws the channels, for the whole batch.

    Args:
        network: in train or eval mode.
        share: chance of a channel to be dropped, in [0, 1).

    Raises:
        MedSSLError: nobody said where the network can be tapped.

    Source: Yang et al., UniMatch (CVPR 2023, arXiv 2208.09910), whose decoder sees the encoder's
    features with channels dropped; there no level sees what the one before has lost.
    """
    layers = {4: WholeDropout2d(share), 5: WholeDropout3d(share)}

    def drop(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        found: Tensor = layers[out.ndim](out)
        return found

    levels = taps_of(network).levels
    with _hooked(network, [network.get_submodule(n).register_forward_hook(drop) for n in levels]):
        yield


@contextmanager
def _hooked(network: nn.Module, hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks afterwards; a compiled network runs as it was written until then.

    A compiler does not look for hooks that come later.
    """
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
        for hook in hooks:
            hook.remove()


def taps_of(network: nn.Module) -> Taps:
    """Return where a network can be tapped.

    Raises:
        MedSSLError: nobody said it.
    """
    own = getattr(network, "taps", None)
    if isinstance(own, Taps):
        return own
    blueprint = blueprint_of(network)
    if blueprint is None or blueprint.name not in _BUILTIN:
        named = blueprint.name if blueprint else type(network).__name__
        raise MedSSLError(
            f"network {named!r} does not say which of its modules are the levels of its encoder",
            fix="give its class an attribute `taps = Taps(levels=(...), head=...)`, see "
            "medssl.networks.taps",
        )
    return _BUILTIN[blueprint.name](network)


def _unet(network: nn.Module) -> Taps:
    """Follow MONAI's nested blocks (down, skip connection around the next block, up) to the end."""
    levels, block = [], "model"
    names = {name for name, _ in network.named_modules()}
    while f"{block}.1.submodule" in names:
        levels.append(f"{block}.0")
        block = f"{block}.1.submodule"
    return Taps((*levels, block), "model.2")


def _dynunet(network: nn.Module) -> Taps:
    downsamples = network.get_submodule("downsamples")
    inner = (f"downsamples.{i}" for i, _ in enumerate(downsamples.children()))
    return Taps(("input_block", *inner, "bottleneck"), "output_block")


def _segresnet(network: nn.Module) -> Taps:
    layers = network.get_submodule("down_layers")
    return Taps(tuple(f"down_layers.{i}" for i, _ in enumerate(layers.children())), "conv_final")


def _listed(head: str, levels: str) -> Callable[[nn.Module], Taps]:
    return lambda _: Taps(tuple(levels.split()), head)


_BUILTIN: dict[str, Callable[[nn.Module], Taps]] = {
    "ahnet_r18": _listed("final", "relu layer1 layer2 layer3 layer4"),
    "dynunet": _dynunet,
    "resvnet": _listed(
        "out_conv",
        "resencoder.bn1 resencoder.layer1 resencoder.layer2 resencoder.layer3 resencoder.layer4",
    ),
    "segresnet": _segresnet,
    "unet": _unet,
    "unet2d": _listed(
        "decoder.out_conv",
        "encoder.in_conv encoder.down1 encoder.down2 encoder.down3 encoder.down4",
    ),
    "vnet": _listed("out_conv", "block_one block_two block_three block_four block_five"),
}

"""What UMCT needs of its networks, of which there is one per view.

The method is in :mod:`medssl.methods.umct`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medssl.errors import MedSSLError
from medssl.networks.build import blueprint_of
from medssl.networks.kernels import has_symmetric_kernels
from medssl.ops.uncertainty import dropout_layers, passes_differ

ADD_DROPOUT = (
    "set network.dropout, for instance to 0.2 (the networks from MONAI have 0 by default), or "
    "method.views to 2, which needs no uncertainty"
)


def problems(networks: Sequence[nn.Module]) -> list[str]:
    """Return why there would be no uncertainty; two views need none."""
    if len(networks) == 2 or dropout_layers(networks[0]):
        return []
    return [
        f"{_named(networks[0])} has no dropout, so the uncertainty of umct would be 0 everywhere: "
        f"{ADD_DROPOUT}"
    ]


def warnings(networks: Sequence[nn.Module], samples: int, spatial_dims: int) -> list[str]:
    """Warn of passes that are all the same, and of views that may become alike."""
    out, named = [], _named(networks[0])
    if samples > 1 and not dropout_layers(networks[0]):
        out.append(
            f"{named} has no dropout: the {samples} passes of method.mc_samples are all the same; "
            "1 costs less"
        )
    if spatial_dims == 3 and has_symmetric_kernels(networks[0]):
        out.append(
            f"the kernels of {named} are the same along all axes: its views may become alike. umct "
            "was made for n x n x 1 kernels (network ahnet_r18)"
        )
    return out


def require_stochastic(networks: Sequence[nn.Module], samples: int, image: Tensor) -> None:
    """Make sure that two passes with dropout differ; else the views would be plainly averaged.

    Args:
        networks: one per view.
        samples: passes of each.
        image: ``(B, C, *spatial)``, as the first network sees it.

    Raises:
        MedSSLError: they are equal.
    """
    if len(networks) > 2 and samples > 1 and not passes_differ(networks[0], image):
        raise MedSSLError(
            "two passes of the network with dropout on are equal, so the uncertainty of umct would "
            "be 0 everywhere and its views equally sure",
            fix=ADD_DROPOUT,
        )


def _named(network: nn.Module) -> str:
    blueprint = blueprint_of(network)
    return f"network {blueprint.name!r}" if blueprint else "the network"

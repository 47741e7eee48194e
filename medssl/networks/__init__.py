"""Networks by name: MONAI's own, and the few that the papers need and MONAI lacks."""

from medssl.networks import builtin  # noqa: F401  (fills the registry)
from medssl.networks.registry import build_network, check_patch, list_networks
from medssl.networks.resvnet import ResVNet
from medssl.networks.unet2d import UNet2D
from medssl.networks.vnet import VNet

__all__ = ["ResVNet", "UNet2D", "VNet", "build_network", "check_patch", "list_networks"]

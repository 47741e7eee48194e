"""Networks by name: MONAI's own, and the few that the papers need and MONAI lacks."""

from medssl.networks import builtin  # noqa: F401 - fills the registry

"""What is known of a network before it is built; loads neither PyTorch nor MONAI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl.optional import import_object
from medssl.strict import Strict

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Network:
    """A registered network.

    Attributes:
        description: one line for the user.
        settings: the model of its settings.
        kind: the class of the network, or where it is: ``"package.module:Class"``, which is
            imported when a network is built and not when it is listed or checked.
        arguments: from the settings and ``spatial_dims, in_channels, num_classes`` to the keyword
            arguments of ``kind``: numbers, strings and lists, so that they can be written down.
        factors: what each patch axis must be a multiple of, from settings and ``spatial_dims``.
        spatial_dims: dimensions it exists in.
        finish: a function ``finish(network, settings)`` that completes a network once it is built,
            or where it is, ``"package.module:function"``; None: it is complete.
    """

    description: str
    settings: type[Strict]
    kind: str | type[nn.Module]
    arguments: Callable[..., dict[str, Any]]
    factors: Callable[[Any, int], Sequence[int]]
    spatial_dims: tuple[int, ...] = (2, 3)
    finish: str | Callable[[Any, Any], None] | None = None

    def load(self) -> type[nn.Module]:
        """Return the class of the network, imported if need be."""
        loaded: type[nn.Module] = (
            import_object(self.kind) if isinstance(self.kind, str) else self.kind
        )
        return loaded

    def complete(self, built: nn.Module, settings: Any) -> None:
        """Do to a network what is left to do once it is built."""
        finish = import_object(self.finish) if isinstance(self.finish, str) else self.finish
        if finish is not None:
            finish(built, settings)

"""What the sites of a federation agree on: ``federation.json``, and the key of each site."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from medssl.errors import MedSSLError
from medssl.federation.messages import Refused, read_regular
from medssl.recipe.load import LoadedRecipe
from medssl.runs.changes import flatten
from medssl.settings.recipe import OVERRIDDEN
from medssl.strict import Strict
from medssl.training.exchange import Part

FILE = "federation.json"
_MOST_BYTES = 2**24
_OWN = {
    *("precision", "workers", "compile", "channels_last", "cache_on_device"),
    *("validate_every", "log_every", "loggers", "checkpoint_every"),
}
"""Settings of training that each site chooses: they say where and how often, not what."""

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Federation(Strict):
    """What all sites agree on; its hash is part of every message.

    Attributes:
        id: tells federations apart.
        sites: names.
        recipe: settings that are the same everywhere, with dotted keys.
        labels: names of the structures by class, background first.
        channels: of an image.
        every, rounds: iterations of a round, and how many rounds there are.
        parts, norms, proximal: see :class:`medssl.training.exchange.Exchange`.
        weights: of a site in the mean, see :func:`medssl.federation.average.site_weights`.
        average, trim: how updates become one, see :func:`medssl.federation.average.averaged`.
        norm_limit: an update longer than this many times the median of those accepted lately is
            refused.
        at_least: so many sites make a round.
        wait_minutes: how long the server waits for the others.
        tensors: shapes by name, in the order of a message.
        base: SHA-256 of the tensors that all start from.
    """

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    sites: list[SiteName] = Field(min_length=1, max_length=1000)
    recipe: dict[str, Any]
    labels: list[str] = Field(min_length=2)
    channels: int = Field(ge=1)
    every: int = Field(ge=1)
    rounds: int = Field(ge=1)
    parts: list[Part] = Field(min_length=1)
    norms: Literal["shared", "local"]
    proximal: float = Field(0.0, ge=0, allow_inf_nan=False)
    weights: Literal["iterations", "labeled"]
    average: Literal["mean", "median", "trimmed"]
    trim: float = Field(ge=0, lt=0.5)
    norm_limit: float = Field(gt=1)
    at_least: int = Field(ge=1)
    wait_minutes: float = Field(ge=0)
    tensors: dict[str, list[Annotated[int, Field(ge=1)]]] = Field(min_length=1)
    base: Sha256

    @model_validator(mode="after")
    def _sites_agree(self) -> Federation:
        if len({name.casefold() for name in self.sites}) < len(self.sites):
            raise ValueError("two sites have one name")
        if self.at_least > len(self.sites):
            raise ValueError("at_least is more than there are sites")
        return self


class SiteKey(Strict):
    """What a site is given by hand: its key, and the hash of what was agreed.

    Attributes:
        site: its name.
        key: 32 secret bytes, as hex.
        federation: SHA-256 of ``federation.json``.
    """

    site: SiteName
    key: Sha256
    federation: Sha256

    @property
    def secret(self) -> bytes:
        """The key as bytes."""
        return bytes.fromhex(self.key)


class ServerKeys(Strict):
    """What the server alone has: the keys of all sites, and the hash of what was agreed."""

    keys: dict[SiteName, Sha256]
    federation: Sha256


_Model = TypeVar("_Model", Federation, SiteKey, ServerKeys)


def read_agreed(folder: Path, expected: str | None) -> Federation:
    """Read ``federation.json``.

    Args:
        folder: where the sites meet.
        expected: its SHA-256, from the key; None where nothing is done but look.

    Raises:
        MedSSLError: it is not there, damaged, or not what the key was made for.
    """
    data = _read(folder / FILE, "name the folder that `medssl federate init` wrote")
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise MedSSLError(
            "what was agreed is not what this key was made for: it was changed, or is of another "
            "federation",
            where=folder / FILE,
            fix="get folder and key from whoever began the federation",
        )
    return _parsed(Federation, data, folder / FILE)


def read_site_key(path: Path) -> SiteKey:
    """Read the key of a site.

    Raises:
        MedSSLError: it is not there or damaged.
    """
    return _parsed(SiteKey, _read(path, "name the file that the server gave you"), path)


def read_server_keys(path: Path) -> ServerKeys:
    """Read the keys of all sites.

    Raises:
        MedSSLError: they are not there or damaged.
    """
    return _parsed(ServerKeys, _read(path, "name the server's own folder with --server"), path)


def _read(path: Path, fix: str) -> bytes:
    try:
        return read_regular(path, _MOST_BYTES)
    except Refused as refused:
        raise MedSSLError(f"cannot be read: {refused}", where=path, fix=fix) from None
    except FileNotFoundError:
        raise MedSSLError("it is not there", where=path, fix=fix) from None


def _parsed(model: type[_Model], data: bytes, path: Path) -> _Model:
    try:
        return model.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise MedSSLError(
            f"the file is damaged: {first}", where=path, fix="get it anew from the server"
        ) from None


def common_settings(loaded: LoadedRecipe) -> dict[str, Any]:
    """Return the settings that all sites must share, with dotted keys."""
    recipe = loaded.recipe.model_dump(mode="json")
    training = {k: v for k, v in recipe["training"].items() if k not in _OWN}
    method = {k: v for k, v in recipe["method"].items() if k != OVERRIDDEN}
    sections = {"network": recipe["network"], "method": method, "spec": recipe["spec"]}
    return flatten({**sections, "training": training})


def refuse_other_recipe(federation: Federation, loaded: LoadedRecipe) -> None:
    """Refuse a site's recipe that would train something else than was agreed.

    Raises:
        MedSSLError: a setting differs; names it.
    """
    own = common_settings(loaded)
    for key in {**federation.recipe, **own}:
        if own.get(key) != federation.recipe.get(key):
            raise MedSSLError(
                f"the federation agreed on {key} = {federation.recipe.get(key)!r}, this recipe has "
                f"{own.get(key)!r}",
                where=loaded.source,
                fix=f"use the recipe that the federation was begun with, or --set {key}=...",
            )

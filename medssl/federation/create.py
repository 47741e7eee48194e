"""A new federation: what is agreed, a key for each site, and the model that all start from."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from medssl.errors import MedSSLError
from medssl.federation.agreed import (
    FILE,
    Federation,
    ServerKeys,
    SiteKey,
    common_settings,
)
from medssl.federation.messages import Header, as_bytes, global_name, model_hash, packed
from medssl.files import all_or_nothing, write_bytes, write_private
from medssl.paths import AnyPath
from medssl.recipe.load import LoadedRecipe, load_recipe

KEYS = "keys.json"


@dataclass(frozen=True)
class Created:
    """A federation that was begun: its folder, the server's own, the files of the sites' keys."""

    folder: Path
    server: Path
    keys: dict[str, Path]
    rounds: int


@dataclass(frozen=True)
class Terms:
    """How the sites of a federation train together.

    Attributes:
        channels: of an image.
        every: iterations of a round.
        parts: of the method, that are shared.
        norms: ``local`` keeps normalization layers at each site (FedBN).
        proximal: mu of FedProx, which holds each site near the common model; 0 is FedAvg.
        weights: of a site: by ``iterations``, which is equal, or by ``labeled`` patients.
        average: ``mean``, ``median`` or ``trimmed`` mean, the last two without weights.
        trim: share of the sites that ``trimmed`` leaves out on each side.
        norm_limit: updates so many times as long as usual are refused.
        at_least: so many sites make a round; default: two, or one if there is one.
        wait_minutes: how long the server waits for sites before a round goes on without them.
    """

    channels: int = 1
    every: int = 50
    parts: Sequence[Literal["student", "teacher", "buffers"]] = ("student", "teacher", "buffers")
    norms: Literal["shared", "local"] = "shared"
    proximal: float = 0.0
    weights: Literal["iterations", "labeled"] = "iterations"
    average: Literal["mean", "median", "trimmed"] = "mean"
    trim: float = 0.2
    norm_limit: float = 3.0
    at_least: int | None = None
    wait_minutes: float = 1440.0


ORDINARY = Terms()


def federate_init(
    folder: AnyPath,
    server: AnyPath,
    recipe: AnyPath,
    *,
    sites: Sequence[str],
    labels: Sequence[str],
    terms: Terms = ORDINARY,
    overrides: Sequence[str] = (),
) -> Created:
    """Begin a federation that meets in a folder; no scan is opened.

    Args:
        folder: where the sites will meet; new or empty.
        server: the server's own folder, which no site may read: it will hold all keys.
        recipe: what is trained; its data play no part.
        sites: names, of letters, digits, `-` and `_`.
        labels: names of the structures in the order of their values, background first.
        terms: how they train together.
        overrides: ``section.key=value`` assignments.

    Raises:
        MedSSLError: a folder is not empty, or the recipe cannot be trained together.
    """
    loaded = load_recipe(recipe, [*overrides, "data.root=phantom"])
    enough = min(2, len(sites)) if terms.at_least is None else terms.at_least
    payload, federation = _agreed(
        loaded,
        {
            "id": secrets.token_hex(8),
            "sites": list(sites),
            "labels": list(labels),
            **asdict(terms),
            "parts": list(terms.parts),
            "at_least": enough,
        },
    )
    text = federation.model_dump_json(indent=1).encode()
    agreed = hashlib.sha256(text).hexdigest()
    keys = {site: secrets.token_hex(32) for site in federation.sites}
    header = Header(kind="global", federation=agreed, round=0, base=federation.base)
    message = packed(header, payload, [bytes.fromhex(key) for key in keys.values()])
    with all_or_nothing(Path(server), "the server's keys") as home:
        with all_or_nothing(Path(folder), "the federation") as building:
            write_bytes(building / FILE, text)
            write_bytes(building / global_name(0), message)
        write_bytes(home / FILE, text)
        write_bytes(home / global_name(0), message)
        everything = ServerKeys(keys=keys, federation=agreed)
        write_private(home / KEYS, everything.model_dump_json(indent=1).encode())
        for site, key in keys.items():
            one = SiteKey(site=site, key=key, federation=agreed)
            write_private(home / "sites" / f"{site}.json", one.model_dump_json(indent=1).encode())
    files = {site: Path(server) / "sites" / f"{site}.json" for site in keys}
    return Created(Path(folder), Path(server), files, federation.rounds)


def _agreed(loaded: LoadedRecipe, chosen: dict[str, object]) -> tuple[bytes, Federation]:
    """Return the tensors that all start from, and what is agreed."""
    from medssl.models.create import create_method
    from medssl.training.exchange import refuse_unsuited, shared_tensors

    recipe = loaded.recipe
    refuse_unsuited(recipe, 1)
    own = [
        ("network.init", recipe.network.given is not None),
        ("data.roi", recipe.data.roi is not None),
        ("method.teacher", loaded.settings.taught),
        ("spec.spacing: median", recipe.spec.spacing == "median"),
        ("training.region_loss", recipe.training.region_loss),
        ("inference.decide: regions", recipe.inference.decide == "regions"),
    ]
    for key, used in own:
        if used:
            raise MedSSLError(
                f"{key} means something else at each site",
                where=loaded.source,
                fix="write the voxel size into the recipe" if "spacing" in key else "take it out",
            )
    try:
        # What is chosen is checked before it is used.
        trial = Federation.model_validate(
            {**chosen, "recipe": {}, "rounds": 1, "tensors": {"x": [1]}, "base": "0" * 64}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise MedSSLError(
            f"{'.'.join(map(str, first['loc'])) or 'sites'}: {first['msg']}",
            where="medssl federate init",
            fix="correct the option",
        ) from None
    method = create_method(
        recipe, loaded.settings, num_classes=len(trial.labels), channels=trial.channels
    )
    stages = method.stages(recipe.training.iterations)
    total = sum(stage.iterations for stage in stages)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in shared_tensors(method, stages, trial.parts, trial.norms).items()
    }
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    payload = as_bytes(tensors, shapes)
    found = {
        "recipe": common_settings(loaded),
        "rounds": math.ceil(total / trial.every),
        "tensors": shapes,
        "base": model_hash(payload),
    }
    return payload, Federation.model_validate({**chosen, **found})

"""A federation as a job of NVIDIA FLARE, and what sites and server add to their startup kits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from medssl.errors import MedSSLError
from medssl.federation.agreed import FILE, read_agreed, read_server_keys, read_site_key
from medssl.federation.create import KEYS
from medssl.federation.messages import global_name
from medssl.files import all_or_nothing, write_bytes, write_json
from medssl.paths import AnyPath
from medssl.strict import Strict

OWN = "medssl.json"
"""In a kit's folder ``local``: what is this site's, or this server's, own."""
SERVER = "server"
CLASSES = "medssl.federation.flare"
"""What a kit lets jobs build; NVFlare refuses classes that a site has not listed."""
ROUND, FINISH = "round", "finish"
_RESOURCES, _STREAMING = "resources.json", "allow_log_streaming"


class OwnSite(Strict):
    """A site's own part: what `medssl federate site` is given."""

    recipe: str
    key: str
    output: str
    overrides: list[str] = Field(default_factory=list)
    device: str = "auto"
    precision: str | None = None

    @property
    def folder(self) -> Path:
        """Where this site's messages lie, beside its run."""
        run = Path(self.output)
        return run.with_name(f"{run.name}-federation")


class OwnServer(Strict):
    """The server's own part: its folder, which holds all keys."""

    server: str

    @property
    def folder(self) -> Path:
        """Where what came from the sites lies."""
        return Path(self.server) / "received"


class Own(Strict):
    """What ``local/medssl.json`` says: of NVFlare's names who is whom.

    A simulator's sites share one file; a kit's has one entry.
    """

    server: OwnServer | None = None
    sites: dict[Annotated[str, Field(min_length=1)], OwnSite] = Field(default_factory=dict)


def read_own(local: Path) -> Own:
    """Read what a kit's folder ``local`` says.

    Raises:
        MedSSLError: there is nothing, or it is damaged.
    """
    path = local / OWN
    try:
        return Own.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise MedSSLError(
            f"it does not say what is this kit's own: {type(error).__name__}",
            where=path,
            fix="write it with `medssl federate flare-site`, or `flare-server`",
        ) from None


def refuse_streamed_logs(local: Path) -> None:
    """Refuse to work where NVFlare would send the site's logs to the server, as it does by default.

    Args:
        local: folder of the kit.

    Raises:
        MedSSLError: it would; names no path, since this is logged as well.
    """
    try:
        content = json.loads((local / _RESOURCES).read_text(encoding="utf-8"))
        streamed = content.get(_STREAMING, True)
    except (OSError, ValueError, AttributeError):
        streamed = True
    if streamed:
        raise MedSSLError(
            "NVFlare would send this site's logs to the server",
            fix="let `medssl federate flare-site` write the kit's resources.json",
        )


def federate_flare(server: AnyPath, output: AnyPath) -> Path:
    """Write a job for NVIDIA FLARE: for its simulator, POC mode, or a provisioned deployment.

    Sites are known by the names that NVFlare has for them. The rounds, what is agreed, keys and
    checks are those of the folder's way; NVFlare carries what else lies there. Needs no NVFlare.

    Args:
        server: the server's own folder, from :func:`medssl.federation.create.federate_init`.
        output: the job's folder; new.

    Returns:
        The job's folder.

    Raises:
        MedSSLError: it is no server's folder, or the output is not empty.
    """
    home = Path(server)
    if not (home / KEYS).is_file():
        raise MedSSLError("it is no folder of a server", where=home, fix="name it with --server")
    agreed = read_agreed(home, read_server_keys(home / KEYS).federation)
    executor = {"tasks": [ROUND, FINISH], "executor": _part("SiteExecutor")}
    sites = _config("executors", executor)
    rounds = _config("workflows", {"id": "rounds", **_part("RoundsController")})
    meta = {
        "name": f"medssl-{agreed.id}",
        "resource_spec": {},
        "min_clients": agreed.at_least,
        "deploy_map": {"rounds": [SERVER], "sites": agreed.sites},
    }
    with all_or_nothing(Path(output), "the job") as building:
        write_json(building / "meta.json", meta)
        write_json(building / "rounds" / "config" / "config_fed_server.json", rounds)
        config = building / "sites" / "config"
        write_json(config / "config_fed_client.json", sites)
        for name in (FILE, global_name(0)):
            write_bytes(config / name, (home / name).read_bytes())
    return Path(output)


def federate_flare_site(
    kit: AnyPath,
    key: AnyPath,
    recipe: AnyPath,
    output: AnyPath,
    *,
    overrides: Sequence[str] = (),
    device: str = "auto",
    precision: str | None = None,
) -> Path:
    """Say in a site's startup kit what it trains when a job comes, and let jobs of medssl run.

    NVFlare's sending of logs to the server is switched off: they name paths.

    Args:
        kit: the kit's folder, or the workspace of a simulator.
        key: the file that the server gave this site; its name is NVFlare's for the site.
        recipe, output, overrides, device, precision: as of :func:`medssl.train`.

    Returns:
        The file that says so.

    Raises:
        MedSSLError: no key, or no kit.
    """
    own = OwnSite(
        recipe=_absolute(recipe),
        key=_absolute(key),
        output=_absolute(output),
        overrides=list(overrides),
        device=device,
        precision=precision,
    )
    name = read_site_key(Path(key)).site

    def with_site(before: Own) -> Own:
        return before.model_copy(update={"sites": {**before.sites, name: own}})

    return _write_own(Path(kit), with_site)


def federate_flare_server(kit: AnyPath, server: AnyPath) -> Path:
    """Say in the server's startup kit where its own folder is, and let jobs of medssl run.

    Args:
        kit: the kit's folder, or the workspace of a simulator.
        server: the server's own folder.

    Returns:
        The file that says so.

    Raises:
        MedSSLError: it is no server's folder, or no kit.
    """
    if not (Path(server) / KEYS).is_file():
        raise MedSSLError(
            "it is no folder of a server", where=Path(server), fix="name it with --server"
        )
    own = OwnServer(server=_absolute(server))
    return _write_own(Path(kit), lambda it: it.model_copy(update={"server": own}))


def _part(name: str) -> dict[str, Any]:
    return {"path": f"{CLASSES}.{name}", "args": {}}


def _config(what: str, part: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of an app with one part.

    ``nvflare job submit`` 2.9 writes it anew and takes what holds the first key for all of it, so a
    number stands first.
    """
    more: dict[str, Any] = {"task_data_filters": [], "task_result_filters": [], "components": []}
    return {"format_version": 2, what: [part], **more}


def _absolute(path: AnyPath) -> str:
    """Return a path that holds wherever NVFlare runs; the name of a shipped recipe stays."""
    found = Path(path)
    return str(found.absolute()) if found.exists() or found.parent != Path() else str(path)


def _write_own(kit: Path, changed: Callable[[Own], Own]) -> Path:
    if not kit.is_dir():
        raise MedSSLError("there is no such startup kit", where=kit, fix="name its folder")
    local = kit / "local"
    before = read_own(local) if (local / OWN).is_file() else Own()
    resources = local / _RESOURCES
    default = resources.with_name(f"{_RESOURCES}.default")
    source = next((path for path in (resources, default) if path.is_file()), None)
    try:
        content = {} if source is None else json.loads(source.read_text(encoding="utf-8"))
        listed = content.setdefault("class_allow_list", [])
        if CLASSES not in listed:
            listed.append(CLASSES)
        content[_STREAMING] = False
    except (ValueError, AttributeError) as error:
        raise MedSSLError(f"the file is damaged: {error}", where=source, fix="restore it") from None
    write_json(resources, content)
    write_json(local / OWN, changed(before).model_dump())
    return local / OWN

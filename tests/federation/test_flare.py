"""NVIDIA FLARE as what carries a federation: the job, the kits, and both ways compared.

What needs NVFlare is skipped where it is not installed (extra `federated`); it takes a minute or
two of a core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from federations import base_of, begin, message, newest, serve
from helpers import small_recipe, write_dataset, write_recipe

from medssl import cli
from medssl.errors import MedSSLError
from medssl.federation.agreed import read_agreed, read_site_key
from medssl.federation.create import Created
from medssl.federation.differences import differences, restored
from medssl.federation.flare_job import (
    CLASSES,
    federate_flare,
    federate_flare_server,
    federate_flare_site,
    read_own,
    refuse_streamed_logs,
)
from medssl.federation.messages import global_name, read_message, update_name
from medssl.optional import is_installed

needs_flare = pytest.mark.skipif(not is_installed("nvflare"), reason="NVFlare is not installed")
HEADER = {"kind": "update", "round": 1, "figures": {"iterations": 2}}


def carried(found: Created, sender: str, moved: dict[str, np.ndarray], **changes: object) -> bytes:
    """Return what the server makes of a site's answer, and put it where it looks."""
    own = read_site_key(found.keys[sender])
    header = {**HEADER, "federation": own.federation, "base": newest(found), **changes}
    base = base_of(found, 0.5)
    content = restored(json.dumps(header), moved, base, site=sender, key=own.secret)
    (found.folder / update_name(1, sender)).write_bytes(content)
    return content


def test_differences_there_and_back_are_the_update(tmp_path: Path) -> None:
    found = begin(tmp_path, "A", "B")
    shapes = read_agreed(found.folder, None).tensors
    torch.manual_seed(1)
    base = {name: torch.randn(tuple(shape)) for name, shape in shapes.items()}
    update = {name: t + 0.01 * torch.randn(t.shape) for name, t in base.items()}
    path = tmp_path / "update.bin"
    path.write_bytes(message(found, "A", tensors=update))
    own = read_site_key(found.keys["A"])
    sent = read_message(path, shapes, own.secret)
    moved = differences(sent, base)
    assert {array.dtype for array in moved.values()} == {np.dtype("float32")}
    header = sent.header.model_dump_json()
    path.write_bytes(restored(header, moved, base, site="A", key=own.secret))
    back = read_message(path, shapes, own.secret)
    assert back.header == sent.header
    for name, tensor in update.items():
        assert torch.allclose(back.tensors[name], tensor, rtol=0, atol=1e-8), name


def test_what_is_no_update_is_refused_by_name(tmp_path: Path) -> None:
    found = begin(tmp_path, *"ABCDEF", at_least=1)
    good = {name: np.zeros(tuple(t.shape), np.float32) for name, t in base_of(found).items()}
    first = next(iter(good))
    carried(found, "A", good)
    carried(found, "B", {**good, first: good[first].ravel()[:1]})
    carried(found, "C", {**good, first: np.full_like(good[first], np.inf)})
    carried(found, "D", {n: a for n, a in good.items() if n != first})
    carried(found, "E", good, round=2)
    # Who carried it says whose it is: a site cannot speak for another.
    assert b'"site":"F"' in carried(found, "F", good, site="A")
    (closed,) = serve(found, wait_minutes=0)
    assert closed.refused == {
        "B": "it is no message of a federation",
        "C": "its tensors are not finite",
        "D": "it is no message of a federation",
        "E": "it is of another round",
    }
    assert set(closed.weights) == {"A", "F"}


def test_the_job_holds_what_is_agreed_and_no_key(tmp_path: Path) -> None:
    found = begin(tmp_path, "site-1", "site-2")
    job = tmp_path / "job"
    server = str(found.server)
    assert cli.run(["federate", "flare", str(job), "--server", server]) == 0
    meta = json.loads((job / "meta.json").read_text())
    assert meta["deploy_map"] == {"rounds": ["server"], "sites": ["site-1", "site-2"]}
    assert meta["min_clients"] == 2
    (executor,) = json.loads((job / "sites/config/config_fed_client.json").read_text())["executors"]
    assert executor["executor"]["path"] == f"{CLASSES}.SiteExecutor"
    for path in job.glob("*/config/config_fed_*.json"):
        # What holds the first value is all that `nvflare job submit` keeps.
        assert next(iter(json.loads(path.read_text()))) == "format_version", path
    for name in ("federation.json", global_name(0)):
        assert (job / "sites/config" / name).read_bytes() == (found.server / name).read_bytes()
    secrets = json.loads((found.server / "keys.json").read_text())["keys"].values()
    for path in job.rglob("*"):
        if path.is_file():
            assert not any(s.encode() in path.read_bytes() for s in secrets), path
            assert str(tmp_path).encode() not in path.read_bytes(), path
    with pytest.raises(MedSSLError, match="no folder of a server"):
        federate_flare(found.folder, tmp_path / "other")


def test_a_kit_is_told_what_is_its_own(tmp_path: Path) -> None:
    found = begin(tmp_path, "site-1", "site-2")
    kit = tmp_path / "kit"
    (kit / "local").mkdir(parents=True)
    default = {"format_version": 2, "class_allow_list": ["nvflare.app_common.np"]}
    (kit / "local" / "resources.json.default").write_text(json.dumps(default))
    federate_flare_server(kit, found.server)
    for site, key in found.keys.items():
        federate_flare_site(kit, key, "hippocampus_bcp", tmp_path / site, overrides=["seed=3"])
    own = read_own(kit / "local")
    assert own.server is not None
    assert own.server.server == str(found.server)
    assert own.sites["site-2"].overrides == ["seed=3"]
    assert own.sites["site-2"].recipe == "hippocampus_bcp"
    assert own.sites["site-2"].folder == tmp_path / "site-2-federation"
    listed = json.loads((kit / "local" / "resources.json").read_text())
    assert listed["class_allow_list"] == ["nvflare.app_common.np", CLASSES]
    refuse_streamed_logs(kit / "local")  # NVFlare sends a site's logs by default
    (kit / "local" / "resources.json").write_text(json.dumps(default))
    with pytest.raises(MedSSLError, match="would send this site's logs"):
        refuse_streamed_logs(kit / "local")
    with pytest.raises(MedSSLError, match="no such startup kit"):
        federate_flare_server(tmp_path / "nowhere", found.server)


@needs_flare
@pytest.mark.slow
def test_the_simulator_and_a_folder_give_the_same_models(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    method = {"name": "self_training", "preset": "fedlabel"}
    norm = {"norm": "batch"}
    content = small_recipe(
        data, tmp_path / "cache", method=method, network=norm, evaluation={"splits": []}
    )
    recipe = write_recipe(tmp_path / "mine.yaml", content)
    sites = {"site-1": "seed=1", "site-2": "data.labeled=0"}
    ways = {}
    for way in ("folder", "flare"):
        (tmp_path / way).mkdir()
        ways[way] = begin(tmp_path / way, *sites, recipe=recipe, every=4, wait_minutes=20)
    folder, flare = ways["folder"], ways["flare"]
    jobs = [run("federate", "server", folder.folder, "--server", folder.server)]
    for site, own in sites.items():
        given = ("--key", folder.keys[site], "--output", tmp_path / f"folder-{site}")
        jobs.append(run("federate", "site", folder.folder, recipe, *given, "--set", own))
    assert [job.wait(600) for job in jobs] == [0, 0, 0]
    space = tmp_path / "simulator"
    space.mkdir()
    federate_flare_server(space, flare.server)
    for site, own in sites.items():
        output = tmp_path / f"flare-{site}"
        federate_flare_site(space, flare.keys[site], recipe, output, overrides=[own])
    job = federate_flare(flare.server, tmp_path / "job")
    names = ",".join(sites)
    nvflare = Path(sys.executable).with_name("nvflare")
    subprocess.run(
        [nvflare, "simulator", job, "-w", space, "-c", names, "-t", "2"],
        check=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    shapes = read_agreed(folder.folder, None).tensors
    for number in range(3):
        one, other = (
            read_message(
                way.server / global_name(number),
                shapes,
                read_site_key(way.keys["site-1"]).secret,
                tags=2,
            ).tensors
            for way in ways.values()
        )
        for name, tensor in one.items():
            assert torch.allclose(tensor, other[name], rtol=0, atol=1e-6), (number, name)
    assert not torch.equal(one[name], base_of(folder)[name])


def run(*arguments: object) -> subprocess.Popen[bytes]:
    """Start a command of medssl in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "medssl", "--quiet", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

"""NVIDIA FLARE with a process and a certificate for each: its POC mode on this machine's loopback.

pytest -n 0 -m flare tests/federation/test_flare_poc.py     # some minutes of a core
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from federations import begin
from helpers import small_recipe, write_dataset, write_recipe

from medssl.federation.flare_job import federate_flare, federate_flare_server, federate_flare_site
from medssl.optional import is_installed

SITES = {"site-1": "seed=1", "site-2": "data.labeled=0"}
MINUTES = 25
BUILDERS = [
    {
        "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
        "args": {"template_file": ["master_template.yml"]},
    },
    {
        "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
        "args": {"config_folder": "config"},
    },
    {"path": "nvflare.lighter.impl.cert.CertBuilder"},
    {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
]


def project(path: Path) -> Path:
    """Write a project whose server is this machine's loopback, at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = {"name": "localhost", "type": "server", "org": "one", "default_host": "localhost"}
    admin = {"name": "admin@one.org", "type": "admin", "org": "one", "role": "project_admin"}
    content = {
        "api_version": 3,
        "name": "hospitals",
        "description": "hospitals",
        "participants": [
            {**server, "fed_learn_port": port},
            admin,
            *({"name": site, "type": "client", "org": "one"} for site in SITES),
        ],
        "builders": BUILDERS,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def sockets(folder: Path) -> set[tuple[str, str]]:
    """Return how processes of a folder use the network: whether they listen, and with whom."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            try:
                used = process.net_connections("inet")
            except psutil.Error:
                continue
            for one in used:
                if one.status == psutil.CONN_LISTEN:
                    found.add(("listens", one.laddr.ip))
                elif one.raddr:
                    found.add(("speaks", one.raddr.ip))
    return found


@pytest.mark.flare
@pytest.mark.slow
@pytest.mark.skipif(not is_installed("nvflare"), reason="NVFlare is not installed")
def test_processes_and_certificates_of_their_own_on_loopback_alone(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    method = {"name": "self_training", "preset": "fedlabel"}
    content = small_recipe(data, tmp_path / "cache", method=method, evaluation={"splits": []})
    recipe = write_recipe(tmp_path / "mine.yaml", content)
    found = begin(tmp_path, *SITES, recipe=recipe, every=4, wait_minutes=MINUTES)
    job = federate_flare(found.server, tmp_path / "job")
    tools, space, home = Path(sys.executable).parent, tmp_path / "poc", tmp_path / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "NVFLARE_POC_WORKSPACE": str(space),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }

    def nvflare(*arguments: object) -> None:
        command = [tools / "nvflare", *map(str, arguments)]
        subprocess.run(command, check=True, timeout=600, env=environment)

    nvflare("poc", "prepare", "-i", project(tmp_path / "project.yml"))
    (kits,) = space.glob("*/prod_00")
    federate_flare_server(kits / "localhost", found.server)
    for site, own in SITES.items():
        output = tmp_path / site
        federate_flare_site(kits / site, found.keys[site], recipe, output, overrides=[own])
    certificates = {(kits / site / "startup" / "client.crt").read_bytes() for site in SITES}
    assert len(certificates) == len(SITES)
    seen: set[tuple[str, str]] = set()
    try:
        nvflare("poc", "start")
        nvflare("--connect-timeout", 120, "job", "submit", "-j", job)
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end and not all(finished(tmp_path / site) for site in SITES):
            seen |= sockets(tmp_path)
            said = (kits / "localhost" / "poc_console.log").read_text(errors="replace")
            assert "Fail the job run" not in said, said[-3000:]
            time.sleep(2)
    finally:
        nvflare("poc", "stop")
    rounds = json.loads((found.server / "rounds.json").read_text())["rounds"]
    assert [(set(r["weights"]), r["refused"], r["missing"]) for r in rounds] == [
        (set(SITES), {}, [])
    ] * 2
    assert all(finished(tmp_path / site) for site in SITES)
    print(sorted(seen))
    assert ("listens", "127.0.0.1") in seen
    assert {address for _, address in seen} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def finished(run: Path) -> bool:
    """Say whether a run has ended well."""
    manifest = run / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text()).get("status") == "finished"

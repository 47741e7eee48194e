"""Rounds: late and missing sites, a server and sites that are killed, what is listed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from federations import LABELS, begin, joined, never, send, serve, update

from medssl import cli
from medssl.errors import MedSSLError
from medssl.federation.audit import federate_audit, federate_status
from medssl.federation.messages import global_name, update_name
from medssl.federation.server import Server
from medssl.files import locked


def test_a_round_waits_as_was_agreed(tmp_path: Path) -> None:
    found = begin(tmp_path)
    send(found, "A", value=1.0)
    assert serve(found) == [], "B and C have not answered"
    assert serve(found, wait_minutes=0) == [], "one is not the two that make a round"
    send(found, "B", value=2.0)
    assert serve(found) == []
    (closed,) = serve(found, wait_minutes=0)
    assert (closed.missing, closed.weights) == (["C"], {"A": 0.5, "B": 0.5})
    assert federate_status(found.folder)["closed"] == 1


def test_a_late_site_takes_the_newest_model_and_is_in_time_again(tmp_path: Path) -> None:
    found = begin(tmp_path)
    said: list[str] = []
    late = joined(found, "C", tmp_path / "run", said)
    for number in (1, 2):
        send(found, "A", number, value=float(number))
        send(found, "B", number, value=float(number))
        serve(found, wait_minutes=0)
    taken = late.swap(update(found, 2, 9.0), never())
    assert taken is not None
    assert all(torch.equal(t, torch.full_like(t, 2.0)) for t in taken.values())
    assert not (found.folder / update_name(1, "C")).exists(), "what is too late is not sent"
    assert "without this site: it was closed before" in said[-1]
    stopped = iter([False, True])
    assert late.swap(update(found, 4, 2.5), lambda: next(stopped)) is None
    send(found, "A", 3, value=3.0)
    send(found, "B", 3, value=3.0)
    assert serve(found)[-1].weights.keys() == {"A", "B", "C"}


def test_a_site_that_comes_back_is_given_the_same(tmp_path: Path) -> None:
    found = begin(tmp_path, "A", "B")
    run = tmp_path / "run"
    site = joined(found, "A", run)
    stopped = iter([True])
    assert site.swap(update(found, 2, 1.0), lambda: next(stopped)) is None
    sent = (found.folder / update_name(1, "A")).read_bytes()
    again = joined(found, "A", run)
    send(found, "B", 1, value=3.0)
    serve(found)
    first = again.swap(update(found, 2, 1.0), never())
    assert (found.folder / update_name(1, "A")).read_bytes() == sent
    send(found, "A", 2, value=5.0)
    send(found, "B", 2, value=5.0)
    serve(found)
    same = joined(found, "A", run).swap(update(found, 2, 1.0), never())
    assert first is not None
    assert same is not None
    assert all(torch.equal(same[n], torch.full_like(t, 2.0)) for n, t in first.items())
    (found.folder / global_name(1)).unlink()
    with pytest.raises(MedSSLError, match="round 1, which this run took, is no longer there"):
        joined(found, "A", run).swap(update(found, 2, 1.0), never())
    serve(found)
    assert joined(found, "A", run).swap(update(found, 2, 1.0), never()) is not None


@pytest.mark.parametrize("moment", ["write_json", "publish"])
def test_a_server_that_is_killed_decides_once(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = begin(tmp_path, "A", "B", average="median")
    send(found, "A", value=1.0)
    send(found, "B", value=2.0)

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        if moment == "publish":
            calls: list[int] = []
            publish = Server.publish
            patch.setattr(
                Server, moment, lambda s, *n: dies() if calls else (calls.append(1), publish(s, *n))
            )
        else:
            patch.setattr(f"medssl.federation.server.{moment}", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            serve(found)
    assert not (found.folder / global_name(1)).exists()
    decided = (found.server / global_name(1)).read_bytes()
    (closed,) = serve(found)
    assert closed.weights == {"A": 0.5, "B": 0.5}
    assert (found.folder / global_name(1)).read_bytes() == decided
    (found.folder / global_name(1)).write_bytes(b"another")
    serve(found)
    assert (found.folder / global_name(1)).read_bytes() == decided


def test_what_one_of_five_that_lies_costs(tmp_path: Path) -> None:
    """Within the limit of lengths, a mean moves by a fifth of the lie, the others hardly."""
    moved = {}
    for average in ("mean", "median", "trimmed"):
        folder = tmp_path / average
        folder.mkdir()
        found = begin(folder, *"ABCDE", average=average)
        for site, value in zip("ABCD", (0.9, 1.0, 1.0, 1.1), strict=True):
            send(found, site, value=value)
        send(found, "E", value=-2.0)
        (closed,) = serve(found)
        assert closed.refused == {}
        site = joined(found, "A", folder / "run")
        taken = site.swap(update(found, 2, 0.9), never())
        assert taken is not None
        moved[average] = float(next(iter(taken.values())).view(-1)[0])
    assert moved == pytest.approx({"mean": 0.4, "median": 1.0, "trimmed": 0.9667}, abs=1e-3)


def test_what_leaves_a_site_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = begin(tmp_path, "A", "B", weights="labeled", parts=("student", "buffers"))
    site = joined(found, "A", tmp_path / "run")
    stopped = iter([True])
    site.swap(update(found, 2, 1.0), lambda: next(stopped))
    (found.folder / update_name(1, "B")).write_bytes(b"nonsense")
    assert cli.run(["federate", "audit", str(found.folder), "1"]) == 0
    listed = json.loads(capsys.readouterr().out)
    mine = listed["messages"][update_name(1, "A")]
    assert mine["header"] == {
        "kind": "update",
        "federation": mine["header"]["federation"],
        "site": "A",
        "round": 1,
        "base": mine["header"]["base"],
        "figures": {"iterations": 2, "labeled_patients": 3},
        "used": [],
    }
    floats = sum(torch.Size(shape).numel() for shape in listed["tensors"].values())
    size = (found.folder / update_name(1, "A")).stat().st_size
    header = len(json.dumps(mine["header"], separators=(",", ":")))
    assert mine["bytes"] == size == 19 + 4 + header + 4 * floats + 32, "every byte is accounted for"
    assert "refused" in listed["messages"][update_name(1, "B")]
    assert cli.run(["federate", "status", str(found.folder)]) == 0
    assert "answered A, B" in capsys.readouterr().out
    with pytest.raises(MedSSLError, match="no round 99"):
        federate_audit(found.folder, 99)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"sites": ("A", "a")}, "two sites have one name"),
        ({"sites": ("../A",)}, "sites"),
        ({"at_least": 9}, "at_least is more than there are sites"),
        ({"norm_limit": 0.5}, "norm_limit"),
        ({"trim": 0.5}, "trim"),
        ({"average": "mode"}, "average"),
        ({"overrides": ["network.init=x.pth"]}, "init"),
        ({"overrides": ["inference.decide=regions"]}, "inference.decide: regions means something"),
        ({"overrides": ["training.early_stop=3"]}, "early_stop"),
    ],
)
def test_what_cannot_be_agreed_is_refused(options: dict, what: str, tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match=what):
        begin(tmp_path, *options.pop("sites", ("A", "B")), **options)
    assert not (tmp_path / "server").exists()
    assert not (tmp_path / "shared").exists()


def test_keys_are_private_and_two_servers_do_not_work_at_once(tmp_path: Path) -> None:
    found = begin(tmp_path, "A", "B")
    for path in (*found.keys.values(), found.server / "keys.json"):
        assert path.stat().st_mode & 0o077 == 0
    assert not any("keys" in p.name or p.name == "A.json" for p in found.folder.iterdir())
    assert LABELS[1] in (found.folder / "federation.json").read_text()
    began = threading.Event()
    ended = threading.Event()

    def hold() -> None:
        with locked(found.server / ".lock", busy=lambda _: RuntimeError()):
            began.set()
            ended.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    began.wait(10)
    try:
        with pytest.raises(MedSSLError, match="another server"):
            serve(found)
    finally:
        ended.set()
        other.join()

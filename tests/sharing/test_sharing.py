"""A model as one file: it predicts as its run, carries nothing private, and is not believed."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import blob_case, small_recipe, write_dataset, write_recipe
from small_model import write_small_run

import medssl
from medssl import cli
from medssl.errors import MedSSLError
from medssl.inference.settings import PredictSettings
from medssl.recipe.load import load_recipe
from medssl.sharing.archive import DESCRIPTION, LICENCE, WEIGHTS, Refused, write_archive
from medssl.sharing.safetensors import pack_tensors
from medssl.workflows import training_run
from medssl.workflows.open_predictor import open_predictor
from medssl.workflows.teaching import find_teacher

Entries = dict[str, bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"spec": {"spacing": [1.2, None, 2.0], "largest_component": True, "pieces": {11: 2}}}
    return write_small_run(tmp_path_factory.mktemp("runs") / "mine", **changes)


@pytest.fixture(scope="module")
def package(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sent") / "mine.zip"
    return medssl.pack(run, target, name="liver", authors="Jane Doe <jane@clinic>").path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models are installed; the working folder holds nothing."""
    monkeypatch.setenv("MEDSSL_MODELS", str(tmp_path / "models"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "models"


def entries_of(package: Path) -> Entries:
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def predicted(source: Path, image: np.ndarray, *more: Path) -> tuple[np.ndarray, np.ndarray]:
    predictor, _ = open_predictor(source, PredictSettings(device="cpu", ensemble=more))
    found = predictor.predict(
        image, spacing_mm=(1, 1, 2), orientation="RAS", keep_probabilities=True
    )
    assert found.probabilities is not None
    return found.values, found.probabilities


def test_an_installed_model_is_its_run_to_the_bit(
    run: Path, package: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["install", str(package)]) == 0
    assert "--sha256" in capsys.readouterr().out
    image = blob_case(4)[0]
    both = predicted(run, image), predicted(Path("liver"), image)
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    data = write_dataset(tmp_path / "data", cases=1)
    scan = str(data / "imagesTr" / "case_00.nii.gz")
    assert cli.run(["predict", "liver", scan, "--output", "maps", "--device", "cpu"]) == 0
    assert Path("maps/case_00.nii.gz").is_file()
    assert cli.run(["export", "liver", "bundle", "--no-torchscript", "--verify"]) == 0
    assert cli.run(["export", "liver", "--verify"]) == 0
    for name in ("configs/inference.json", "configs/metadata.json", "docs/README.md", "LICENSE"):
        assert (models / "liver" / name).read_bytes() == Path("bundle", name).read_bytes()
    assert "not the name" not in capsys.readouterr().out
    assert cli.run(["models", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["structures"]) == ("liver", ["bright", "dim"])
    assert (listed["dice"], listed["patients"]) == (0.5, 2)
    assert cli.run(["models"]) == 0
    assert "liver" in capsys.readouterr().out
    assert cli.run(["models", "--remove", "liver"]) == 0
    assert medssl.list_models() == {}
    assert cli.run(["predict", "liver", scan, "--output", "maps"]) == 2


def test_training_starts_from_a_model_by_its_name(
    package: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it saw nobody knows, as of any bundle; a teacher is found by its name, too."""
    medssl.install(package)
    monkeypatch.setattr(training_run, "write_previews", lambda *_: [])
    content = small_recipe(
        write_dataset(tmp_path / "data", cases=4),
        tmp_path / "cache",
        data={"labeled": 2, "test": 1},
        training={"iterations": 2},
        network={"init": "liver"},
        method={"name": "supervised"},
    )
    recipe = write_recipe(tmp_path / "own.yaml", content)
    run = medssl.train(recipe, output=tmp_path / "own").path
    begun = json.loads((run / "manifest.json").read_text())["init"]
    assert (begun["source"], begun["kind"], begun["known"]) == (
        str(models / "liver"),
        "bundle",
        False,
    )
    assert not begun["new"]
    (ancestor,) = json.loads((run / "lineage.json").read_text())["ancestors"]
    assert ancestor["known"] is False
    taught = load_recipe(recipe, ["method.name=distill", "method.teacher=liver"])
    assert find_teacher(taught) == models / "liver"
    Path("liver").mkdir()  # what lies here comes first
    assert load_recipe(recipe).recipe.network.init == str(Path("liver").absolute())
    with pytest.raises(MedSSLError, match="medssl models"):
        medssl.train(recipe, overrides=["network.init=lover"], output="out")


def test_members_and_what_monai_cannot_express_travel(models: Path, tmp_path: Path) -> None:
    """Two seeds as one model, in micrometers, for which MONAI has no transforms."""
    micro = {"spec": {"spatial_unit": "um"}}
    one, other = (write_small_run(tmp_path / f"r{s}", seed=s, **micro) for s in (1, 2))
    packed = medssl.pack(one, tmp_path / "two.zip", ensemble=other)
    found = medssl.install(packed.path, name="two", sha256=packed.sha256.upper())
    assert "in micrometers" in found.notes[0]
    assert not (found.path / "configs" / "inference.json").exists()
    image = blob_case(5)[0]
    (_, ours), (_, theirs) = predicted(one, image, other), predicted(Path("two"), image)
    np.testing.assert_array_equal(ours, theirs)


def test_nothing_private_leaves_and_the_same_run_makes_the_same_bytes(
    run: Path, package: Path, tmp_path: Path
) -> None:
    data = package.read_bytes()
    words = ("secret_hospital", "case_0", "worst", str(run.parent), "splits", "pickle", "scripts")
    assert [word for word in words if word.encode() in data] == []
    assert sorted(entries_of(package)) == [LICENCE, DESCRIPTION, WEIGHTS]
    again = medssl.pack(run, tmp_path / "b.zip", name="liver", authors="Jane Doe <jane@clinic>")
    assert again.path.read_bytes() == data
    with pytest.raises(MedSSLError, match="the file exists"):
        medssl.pack(run, tmp_path / "b.zip")
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = safetensors.load(entries_of(package)[WEIGHTS])
    assert any(bool((value != 0).any()) for value in theirs.values())


def test_a_model_of_that_name_is_never_replaced(package: Path, models: Path) -> None:
    first = medssl.install(package)
    before = {p: p.stat().st_mtime_ns for p in models.rglob("*")}
    with pytest.raises(MedSSLError, match="'liver' is installed already"):
        medssl.install(package, name="LIVER")
    with pytest.raises(MedSSLError, match="no name for a model"):
        medssl.install(package, name="../liver")
    assert {p: p.stat().st_mtime_ns for p in models.rglob("*")} == before
    assert medssl.install(package, name="liver-2").path != first.path


def test_a_name_that_no_model_has_is_told_the_names_there_are(package: Path, models: Path) -> None:
    with pytest.raises(MedSSLError, match="no such folder") as before:
        open_predictor(Path("livr"), PredictSettings())
    assert "run folder" in before.value.what
    medssl.install(package)
    with pytest.raises(MedSSLError, match="no installed model of this name") as found:
        open_predictor(Path("livr"), PredictSettings())
    assert found.value.fix == "did you mean 'liver'? Known: liver"


def test_a_model_that_needs_a_plugin_names_it(package: Path, models: Path, tmp_path: Path) -> None:
    plugin = {"name": "own.py", "provides": ["network own"], "sha256": {"own.py": "0" * 64}}
    sent = with_description(tmp_path, package, lambda c: c.update(plugins=[plugin]))
    with pytest.raises(MedSSLError, match=r"plugin 'own\.py' \(network own\), which is not here"):
        medssl.install(sent)
    assert not models.exists()


# What a stranger may send. Each entry makes a package of a good one, and says why it is refused.


def with_entries(folder: Path, entries: Entries | list[tuple[zipfile.ZipInfo, bytes]]) -> Path:
    """Write entries with the library's own writer, which believes anything."""
    path = folder / "sent.zip"
    pairs = entries if isinstance(entries, list) else [
        (zipfile.ZipInfo(name), data) for name, data in entries.items()
    ]  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in pairs:
            archive.writestr(info, data)
    return path


def more(name: str, data: bytes = b"x", mode: int = 0) -> Callable[[Path, Path], Path]:
    """Add an entry."""

    def make(folder: Path, package: Path) -> Path:
        pairs = [(zipfile.ZipInfo(n), d) for n, d in entries_of(package).items()]
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        return with_entries(folder, [p for p in pairs if p[0].filename != name] + [(info, data)])

    return make


def with_description(folder: Path, package: Path, change: Callable[[dict], Any]) -> Path:
    entries = entries_of(package)
    content = json.loads(entries[DESCRIPTION])
    change(content)
    return with_entries(folder, entries | {DESCRIPTION: json.dumps(content).encode()})


def described(**changes: Any) -> Callable[[Path, Path], Path]:
    """Change keys of the description; ``a__b`` is the key b of a."""

    def change(content: dict) -> None:
        for key, value in changes.items():
            *path, last = key.split("__")
            here = content
            for part in path:
                here = here[part]
            here[last] = value

    return lambda folder, package: with_description(folder, package, change)


def text(data: bytes) -> Callable[[Path, Path], Path]:
    return lambda f, p: with_entries(f, entries_of(p) | {DESCRIPTION: data})


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    return lambda f, p: with_entries(f, entries_of(p) | {WEIGHTS: change(entries_of(p)[WEIGHTS])})


def table(change: Callable[[dict], Any]) -> Callable[[Path, Path], Path]:
    """Change the table of the weights."""

    def changed(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        content = json.loads(data[8 : 8 + length])
        change(content)
        head = json.dumps(content).encode()
        return struct.pack("<Q", len(head)) + head + data[8 + length :]

    return weights(changed)


def first(key: str, value: Any) -> Callable[[Path, Path], Path]:
    return table(lambda content: next(iter(content.values())).update({key: value}))


def bytes_of(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path, Path], Path]:
    """Change the file itself."""

    def make(folder: Path, package: Path) -> Path:
        path = folder / "sent.zip"
        path.write_bytes(bytes(change(bytearray(package.read_bytes()))))
        return path

    return make


def patched(mark: bytes, offset: int, value: bytes) -> Callable[[Path, Path], Path]:
    """Write other bytes into the first record of a kind."""

    def change(data: bytearray) -> bytearray:
        place = data.index(mark) + offset
        data[place : place + len(value)] = value
        return data

    return bytes_of(change)


def compressed(folder: Path, package: Path) -> Path:
    bomb = b" " * 900_000 + entries_of(package)[DESCRIPTION]
    path = with_entries(folder, entries_of(package) | {DESCRIPTION: bomb})
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries_of(path).items():
            archive.writestr(name, data)
    path.write_bytes(squeezed.getvalue())
    return path


def pickled(_: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def with_nan(data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    return data[: 8 + length] + struct.pack("<f", float("nan")) * ((len(data) - 8 - length) // 4)


def twice(folder: Path, package: Path) -> Path:
    pairs = [(zipfile.ZipInfo(n), d) for n, d in entries_of(package).items()]
    with pytest.warns(UserWarning, match="Duplicate"):
        return with_entries(folder, [*pairs, (zipfile.ZipInfo(LICENCE), b"other")])


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
HOSTILE: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "zip slip": (more("../evil.py"), r"'\.\./evil\.py', which is no part"),
    "absolute path": (more("/etc/evil"), "'/etc/evil', which is no part"),
    "drive and backslash": (more("C:\\evil"), "which is no part of a packed model"),
    "script": (more("scripts/net.py", b"import os"), "'scripts/net.py', which is no part"),
    "TorchScript": (more("models/model.ts"), "'models/model.ts', which is no part"),
    "zip in a zip": (more("inner.zip", b"PK"), "'inner.zip', which is no part"),
    "pickle beside": (more("model.pt"), "'model.pt', which is no part"),
    "folder": (more("medssl.json/"), "which is no part"),
    "link": (more(LICENCE, b"/etc/passwd", stat.S_IFLNK | 0o777), "'LICENSE' is a link"),
    "device": (more(LICENCE, b"x", stat.S_IFCHR), "'LICENSE' is no file"),
    "bomb": (compressed, "is compressed"),
    "many entries": (
        lambda f, p: with_entries(f, entries_of(p) | {f"{n}": b"" for n in range(40)}),
        "holds 43 entries",
    ),
    "twice": (twice, "twice"),
    "encrypted": (patched(CENTRAL, 8, b"\1\0"), "is encrypted"),
    "sizes that lie": (patched(CENTRAL, 20, struct.pack("<II", 7, 7)), "what the directory says"),
    "entry beyond any": (
        patched(CENTRAL, 20, struct.pack("<II", 2**31, 2**31)),
        "has 2147483648 bytes",
    ),
    "entry elsewhere": (patched(CENTRAL, 42, struct.pack("<I", 5)), "what the directory says"),
    "another name inside": (patched(LOCAL, 30, b"other!.json"), "what the directory says"),
    "directory elsewhere": (patched(END, 12, struct.pack("<I", 9)), "directory is not where"),
    "something behind": (bytes_of(lambda d: d + b"MZ"), "something follows it"),
    "something before": (bytes_of(lambda d: b"MZ" + d), "directory is not where"),
    "cut off": (bytes_of(lambda d: d[:-9]), "cut off"),
    "no zip": (bytes_of(lambda d: b"hello"), "no zip file"),
    "flipped bit": (bytes_of(lambda d: d[:9000] + bytes([d[9000] ^ 1]) + d[9001:]), "checksum"),
    "without weights": (
        lambda f, p: with_entries(f, {DESCRIPTION: entries_of(p)[DESCRIPTION]}),
        "has no weights",
    ),
    "deep JSON": (text(b'{"a":' * 90_000), "nested too deeply|no strict JSON"),
    "rather deep JSON": (text(b'{"a":' + b"[" * 30 + b"]" * 30 + b"}"), "more than 20 levels"),
    "NaN in JSON": (text(b'{"format": NaN}'), "NaN is no number"),
    "infinite JSON": (text(b'{"format": 1e999}'), "1e999 is no number"),
    "key twice": (text(b'{"format": 1, "format": 2}'), "a key stands twice"),
    "other text": (text(b"\xff\xfe"), "no strict JSON"),
    "list": (text(b"[1]"), "no JSON object"),
    "huge header": (weights(lambda d: struct.pack("<Q", 2**60) + d[8:]), "claims 1152921504606846"),
    "pickle for weights": (weights(pickled), "the table of its weights claims"),
    "NaN for a shape": (first("shape", [float("nan")]), "NaN is no number"),
    "other shape": (first("shape", [10**12, 10**12]), "has another shape"),
    "true for a size": (first("shape", True), "has another shape"),
    "other type": (first("dtype", "F64"), "has another shape"),
    "overlap": (first("data_offsets", [4, 8]), "claims 4 bytes|overlap"),
    "negative place": (first("data_offsets", [-8, 0]), "claims 8 bytes|overlap"),
    "place of text": (first("data_offsets", "ab"), "is damaged at"),
    "tensor missing": (table(lambda c: c.pop(next(iter(c)))), "not those of its network"),
    "metadata": (table(lambda c: c.update(__metadata__={})), "not those of its network"),
    "bytes behind": (weights(lambda d: d + b"\0" * 8), "bytes follow its weights"),
    "NaN weights": (weights(with_nan), "not finite"),
    "other version": (described(format=2), "has format 2, and this medssl reads format 1"),
    "unknown key": (described(hook="x"), "unknown key `hook`"),
    "expression": (described(authors="$__import__('os')"), "would read as an expression"),
    "expression of a key": (described(network___target_="os.system"), "as an expression"),
    "orientation": (described(spec__orientation="open"), "three axis codes"),
    "terminal": (described(authors="\x1b[2J"), "cannot be printed"),
    "long text": (described(method="m" * 5000), "a text of 5000 letters"),
    "name": (described(name="../../x"), "`name`"),
    "own network": (described(network__name="own"), "unknown network 'own'"),
    "giant network": (described(network__settings__channels=[4096] * 40), "channels|strides"),
    "giant image": (described(spec__resize=[10**9] * 3), "resize is from 1 to 4096"),
    "finest voxels": (described(spec__spacing=[1e-9] * 3), "spacing is at least"),
    "giant patch": (described(patch=[10**9] * 3), "patch"),
    "endless members": (
        described(network={"kind": "ensemble", "members": [{"kind": "network"}] * 99}),
        "more than 64 networks",
    ),
    "model of nothing": (described(network={}), "its description is wrong"),
    "labels": (described(labels__values=[0, 1, 1]), "one name for each value"),
    "licence": (
        lambda f, p: with_entries(f, entries_of(p) | {LICENCE: b"\x1b[2J"}),
        "licence is no text",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_package_is_refused_and_nothing_is_written(
    kind: str, package: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reason = HOSTILE[kind]
    sent = make(tmp_path, package)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refused, match=reason):
        medssl.install(sent)
    assert cli.run(["install", str(sent)]) == 2
    said = capsys.readouterr().err
    assert "the package is refused" in said
    assert str(sent) in said
    assert sorted(tmp_path.rglob("*")) == before
    assert not models.exists()


def test_a_package_of_another_sender_is_refused(package: Path, models: Path) -> None:
    with pytest.raises(Refused, match="not the one that was given"):
        medssl.install(package, sha256="0" * 64)
    with pytest.raises(MedSSLError, match="there is no such file"):
        medssl.install(package.parent / "nowhere.zip")
    assert not models.exists()


def test_the_table_starts_from_a_good_package(package: Path, models: Path, tmp_path: Path) -> None:
    """What is written the same ways without a change is taken."""
    for number, make in enumerate((described(), table(lambda c: None), bytes_of(lambda d: d))):
        assert medssl.install(make(tmp_path, package), name=f"m{number}").path.is_dir()


def test_what_would_be_refused_is_not_packed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="would read as an expression"):
        medssl.pack(run, tmp_path / "a.zip", authors="$jane")
    with pytest.raises(MedSSLError, match="`name`"):
        medssl.pack(run, tmp_path / "a.zip", name="a/b")
    with pytest.raises(MedSSLError, match="holds at most"):
        write_archive(tmp_path / "a.zip", {LICENCE: b"x" * (2**20 + 1)})
    assert list(tmp_path.iterdir()) == []
    assert pack_tensors({}) == struct.pack("<Q", 8) + b"{}      "

"""Code of the user's own: loaded by name, recorded by hash, asked for again."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli, plugins
from medssl.data.importers import importer as importers
from medssl.errors import MedSSLError
from medssl.methods import registry as methods
from medssl.networks import registry as networks
from medssl.settings import intensity_rules, specs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
SPEC = "from medssl.settings.specs import register_spec\nregister_spec({!r}, {!r})\n"


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Leave the tables, the environment and the test's own modules as they were."""
    tables = (methods._METHODS, networks.NETWORKS, specs._OWN, importers.REGISTRY)
    tables = (*tables, intensity_rules._PLUGGED, plugins._loaded)
    before = [dict(table) for table in tables]
    looked_up, path = set(plugins._looked_up), list(sys.path)
    monkeypatch.setenv(plugins.PLUGINS, "")
    monkeypatch.delenv(plugins.ALLOW_CHANGED, raising=False)
    yield
    for table, content in zip(tables, before, strict=True):
        for key in set(table) - set(content):
            del table[key]
    # Only what lies in the test's folder: a library imported meanwhile cannot be loaded twice.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    plugins._looked_up.clear()
    plugins._looked_up.update(looked_up)
    sys.path[:] = path
    os.environ.pop(plugins.ALLOW_CHANGED, None)


def spec_plugin(folder: Path, name: str, file: str = "own.py") -> Path:
    """Write a plugin with a data spec, and a module beside it."""
    (folder / "beside.py").write_text("NUMBER = 1\n")
    (folder / "own.yaml").write_text("# Own.\nmodality: MRI\n")
    path = folder / file
    path.write_text("import beside\n" + SPEC.format(name, str(folder / "own.yaml")))
    return path


def test_a_file_is_loaded_once_and_recorded_with_what_stands_beside_it(tmp_path: Path) -> None:
    path = spec_plugin(tmp_path, "knee")
    plugin = medssl.load_plugin(str(path))
    assert medssl.load_plugin(path) is plugin
    assert plugin.provides == ["spec knee"]
    assert specs.load_spec("knee").modality == "MRI"
    assert "knee" in specs.list_specs()
    (entry,) = plugins.record_plugins({"spec knee", "method bcp"})
    assert entry["name"] == "own.py"
    assert entry["provides"] == ["spec knee"]
    assert sorted(entry["sha256"]) == ["beside.py", "own.py"]
    assert plugins.record_plugins({"method bcp"}) == []


@pytest.mark.parametrize("changed", ["own.py", "beside.py"])
def test_a_changed_plugin_is_refused_by_name(
    tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    medssl.load_plugin(spec_plugin(tmp_path, "knee"))
    recorded = plugins.record_plugins({"spec knee"})
    plugins.check_plugins(recorded, where=tmp_path)
    (tmp_path / changed).write_text("# another\n")
    with pytest.raises(MedSSLError, match=f"'own.py' has changed since: {changed}"):
        plugins.check_plugins(recorded, where=tmp_path)
    monkeypatch.setenv(plugins.ALLOW_CHANGED, "1")
    plugins.check_plugins(recorded, where=tmp_path)


def test_a_missing_plugin_is_named_with_the_way_to_give_it(tmp_path: Path) -> None:
    recorded = [{"name": "gone.py", "provides": ["method gone"], "sha256": {"gone.py": "0"}}]
    with pytest.raises(MedSSLError, match=r"plugin 'gone.py' \(method gone\)") as caught:
        plugins.check_plugins(recorded, where=tmp_path / "manifest.json")
    assert "--plugin gone.py" in str(caught.value)
    with pytest.raises(MedSSLError, match="damaged"):
        plugins.check_plugins([{"name": "x"}], where=tmp_path)
    with pytest.raises(MedSSLError, match="--plugin FILE"):
        methods.get_method("gone")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = 1\n1 / 0\n", "ZeroDivisionError"),
        ("def\n", "SyntaxError"),
        (SPEC.format("ct", __file__), "a data spec 'ct' already"),
        (
            "from medssl.methods.registry import register_method\n"
            "register_method('bcp', settings='a:b', method='a:b')\n",
            "registered twice",
        ),
    ],
)
def test_a_plugin_that_fails_is_an_error_with_file_and_line(
    tmp_path: Path, text: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    assert cli.run(["specs", "--plugin", str(path)]) == 2
    told = capsys.readouterr().err
    assert part in told
    assert "Traceback" not in told
    assert str(path) not in plugins._loaded
    if part == "ZeroDivisionError":
        assert f"{path}:2" in told


def test_the_option_stands_anywhere_and_reaches_other_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spec_plugin(tmp_path, "shoulder")
    for line in (["--plugin", str(path), "specs"], ["specs", f"--plugin={path}"]):
        assert cli.run(line) == 0
        assert "shoulder" in capsys.readouterr().out
    assert os.environ[plugins.PLUGINS] == str(path)
    assert cli.run(["specs", "--plugin"]) == 2
    assert cli.run(["specs", "--plugin", str(tmp_path / "none.py")]) == 2
    assert "no such Python file" in capsys.readouterr().err


def test_the_environment_is_read_when_a_name_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugins.PLUGINS, str(spec_plugin(tmp_path, "elbow")))
    assert specs.load_spec("elbow").name == "elbow" or specs.load_spec("elbow").modality == "MRI"


def test_a_package_is_imported_when_its_name_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec_plugin(tmp_path, "hip", "hip_package.py")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("spec.hip", "hip_package", plugins.GROUP)

    class Entries(list):
        names = frozenset({"spec.hip"})

    def entry_points(*, group: str, name: str | None = None) -> Entries:
        assert group == plugins.GROUP
        return Entries([entry] if name in (None, entry.name) else [])

    monkeypatch.setattr("medssl.plugins.importlib.metadata.entry_points", entry_points)
    assert "hip_package" not in sys.modules
    assert plugins.offered("spec") == ["hip"]
    assert "hip_package" not in sys.modules
    assert specs.load_spec("hip").modality == "MRI"
    (record,) = plugins.record_plugins({"spec hip"})
    assert list(record["sha256"]) == ["hip_package.py"]
    assert record["version"] == "unknown"


def test_a_recipe_never_names_code(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    recipe = small_recipe(tmp_path / "data", tmp_path / "cache")
    recipe["plugins"] = ["own.py"]
    with pytest.raises(MedSSLError, match="plugins"):
        medssl.load_recipe(write_recipe(tmp_path / "r.yaml", recipe))


RULE = """
import numpy as np
from medssl.settings.intensity_rules import register_intensity_rule


def halved(image, intensity):
    return {body}


register_intensity_rule("halved", halved)
"""


def own_rule(folder: Path, body: str = "image / 2 + (intensity.lower or 0)") -> Path:
    path = folder / "own_rule.py"
    path.write_text(RULE.format(body=body))
    return path


def test_an_intensity_rule_of_a_plugin_prepares_images(tmp_path: Path) -> None:
    from medssl.bundle import transforms as bundle_transforms
    from medssl.data.datasets.decathlon import read_dataset
    from medssl.data.preprocessing.cache import CaseCache
    from medssl.data.preprocessing.pipeline import preprocess_case
    from medssl.settings.spec import DataSpec

    with pytest.raises(ValueError, match=r"unknown intensity rule: use one of: zscore, .*--plugin"):
        DataSpec(intensity={"rule": "halved"})
    medssl.load_plugin(own_rule(tmp_path))
    write_dataset(tmp_path / "data")
    dataset = read_dataset(tmp_path / "data")
    raw = DataSpec(intensity={"rule": "none"})
    spec = DataSpec(intensity={"rule": "halved", "lower": 3.0})
    case = dataset.training[0]
    plain, made = (preprocess_case(case, s)[0].image.numpy() for s in (raw, spec))
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, plain / 2 + 3, rtol=1e-6)
    # What the cache holds belongs to this very code.
    cache = CaseCache(tmp_path / "cache", spec, dataset.labels)
    before = cache.key(case)
    own_rule(tmp_path, "image / 4")
    assert cache.key(case) != before
    with pytest.raises(MedSSLError, match="intensity rule 'halved'"):  # MONAI alone has no such
        bundle_transforms.intensity_transforms(spec.intensity)


@pytest.mark.parametrize("body", ["image[:, 1:]", "image * np.nan", "image.no_such"])
def test_a_rule_that_fails_is_an_error_of_the_case(tmp_path: Path, body: str) -> None:
    from medssl.data.datasets.decathlon import read_dataset
    from medssl.data.preprocessing.pipeline import preprocess_case
    from medssl.settings.spec import DataSpec

    medssl.load_plugin(own_rule(tmp_path, body))
    write_dataset(tmp_path / "data")
    case = read_dataset(tmp_path / "data").training[0]
    with pytest.raises(MedSSLError, match=r"'halved' must return|no_such") as caught:
        preprocess_case(case, DataSpec(intensity={"rule": "halved"}))
    assert caught.value.where


def test_a_recipe_records_the_code_of_its_rule(tmp_path: Path) -> None:
    from medssl.recipe.load import plugins_of

    medssl.load_plugin(own_rule(tmp_path))
    write_dataset(tmp_path / "data")
    recipe = small_recipe(tmp_path / "data", tmp_path / "cache")
    file = write_recipe(tmp_path / "r.yaml", recipe)
    loaded = medssl.load_recipe(file, ["spec.intensity.rule=halved"])
    assert [e["provides"] for e in plugins_of(loaded.recipe)] == [["intensity halved"]]
    with pytest.raises(MedSSLError, match=r"spec.intensity.rule.*did you mean 'halved'"):
        medssl.load_recipe(file, ["spec.intensity.rule=halfed"])


@pytest.mark.slow
def test_the_page_of_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of the page: trained, predicted with, exported, refused where it must be."""
    text = PAGE.read_text(encoding="utf-8")
    for name, body in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(body, encoding="utf-8")
    (tmp_path / "mr_knee.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    given = [
        word
        for name in ("my_method", "my_network", "my_spec", "my_rule")
        for word in ("--plugin", str(tmp_path / f"{name}.py"))
    ]
    write_dataset(tmp_path / "data", unlabeled=2)
    recipe = small_recipe(tmp_path / "data", tmp_path / "cache") | {
        "method": "mirror_teacher",
        "network": {"name": "two_scales", "width": 4},
        "spec": "mr_knee",
    }
    file, run = str(write_recipe(tmp_path / "r.yaml", recipe)), str(tmp_path / "run")
    assert cli.run(["train", file, "--output", run, *given]) == 0, capsys.readouterr().err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [e["name"] for e in manifest["plugins"]] == [
        "my_method.py",
        "my_network.py",
        "my_spec.py",
    ]
    knee = "network.width=2", "training.iterations=2", "spec.intensity.rule=log_zscore"
    changes = [word for change in knee for word in ("--set", change)]
    other = str(tmp_path / "other")
    assert cli.run(["train", file, "--output", other, *changes, *given]) == 0
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    assert manifest["plugins"][-1]["provides"] == ["intensity log_zscore"]
    assert cli.run(["export", other, str(tmp_path / "no")]) == 2
    assert "intensity rule 'log_zscore'" in capsys.readouterr().err
    bundle = tmp_path / "bundle"
    assert cli.run(["export", run, str(bundle)]) == 0, capsys.readouterr().err
    assert (bundle / "scripts" / "my_layers.py").is_file()
    source = tmp_path / "my_method.py"
    source.write_text(source.read_text() + "# changed\n")
    images = str(tmp_path / "data" / "imagesUn")
    assert cli.run(["predict", run, images, "--output", str(tmp_path / "p")]) == 2
    assert "has changed since: my_method.py" in capsys.readouterr().err
    again = ["predict", run, images, "--output", str(tmp_path / "p"), "--allow-changed-plugin"]
    assert cli.run(again) == 0
    # An importer.
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(pairs / f"{name}.npy", rng.normal(100, 20, (12, 10, 8)).astype(np.float32))
        label = np.zeros((12, 10, 8), np.uint8)
        label[3:6, 3:6, 3:6] = 1
        np.save(pairs / f"{name}_label.npy", label)
    own = ["--plugin", str(tmp_path / "my_format.py")]
    assert cli.run(["import", "npy_pairs", str(pairs), str(tmp_path / "imported"), *own]) == 0
    assert len(list((tmp_path / "imported" / "imagesTr").iterdir())) == 2


@pytest.mark.slow
def test_a_network_that_needs_more_than_monai_stays(tmp_path: Path) -> None:
    from medssl.bundle.scripts import copy_modules

    (tmp_path / "needy.py").write_text("import scipy\nfrom torch import nn\n")
    (tmp_path / "plain.py").write_text("from torch import nn\nfrom other import HALF\n")
    (tmp_path / "other.py").write_text("import math\nHALF = math.sqrt(0.25)\n")
    sys.path.append(str(tmp_path))
    with pytest.raises(MedSSLError, match="imports 'scipy'"):
        copy_modules(["needy"], tmp_path / "scripts")
    written = copy_modules(["plain"], tmp_path / "good")
    assert [p.name for p in written] == ["__init__.py", "other.py", "plain.py"]
    assert "from scripts.other import HALF" in (tmp_path / "good" / "plain.py").read_text()
    with pytest.raises(MedSSLError, match="plugin's own file"):
        copy_modules([f"{plugins.PREFIX}x_0"], tmp_path / "scripts")

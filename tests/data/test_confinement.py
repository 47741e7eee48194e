"""What a dataset names stays in its folder, and what medssl writes stays in the output folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from decathlon_files import header, make_dataset, touch, write_json
from helpers import write_dataset

from medssl import cli
from medssl.data.checks.repaired_copy import _place
from medssl.data.datasets.case import Case
from medssl.data.datasets.decathlon import read_dataset
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import load_recipe, resolve
from medssl.training.cases import plan_cases


def one_item(root: Path, image: str, **changes: object) -> Path:
    write_json(root, header(training=[{"image": image, "label": "a.nii.gz", **changes}]))
    touch(root / "a.nii.gz", root / "b.nii.gz", root.parent / "out.nii.gz")
    return root


@pytest.mark.parametrize("absolute", [False, True])
def test_outside_only_if_allowed(tmp_path: Path, absolute: bool) -> None:
    outside = tmp_path / "out.nii.gz"
    root = one_item(tmp_path / "d", str(outside) if absolute else "../out.nii.gz")
    with pytest.raises(MedSSLError, match=r"outside[\s\S]*data\.allow_outside: true"):
        read_dataset(root)
    case = read_dataset(root, allow_outside=True).training[0]
    assert case.id == "out"
    assert case.images[0].samefile(outside)
    outside.unlink()
    with pytest.raises(MedSSLError, match=r"does not exist: \.\./out\.nii\.gz"):
        read_dataset(root, allow_outside=True)


def test_recipe_hands_the_leave_on(tmp_path: Path) -> None:
    from medssl.data.opened import open_dataset

    root = one_item(tmp_path / "d", "../out.nii.gz")
    settings = {"data": {"root": str(root), "allow_outside": True}}
    recipe = resolve(settings, path=tmp_path / "r.yaml").recipe
    assert open_dataset(recipe.data, recipe.spec).training[0].id == "out"


@pytest.mark.parametrize(
    "case_id",
    ["../x", "a/b", "a\\b", "..", ".", " . ", "a\nb", "a\x1b[2J", "\x00", "\x9b", "x" * 300],
)
def test_ids_that_are_no_file_name(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(MedSSLError, match=r"has the id[\s\S]*valid file name"):
        read_dataset(one_item(tmp_path / "d", "b.nii.gz", id=case_id))


@pytest.mark.parametrize("case_id", ["Übung 3", "a.b", "脳_01", "a..b", "-x", 7])
def test_ids_that_are_file_names(tmp_path: Path, case_id: str | int) -> None:
    dataset = read_dataset(one_item(tmp_path / "d", "b.nii.gz", id=case_id))
    assert dataset.training[0].id == str(case_id)


def test_names_of_listed_folders_are_checked_too(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d", ["a"])
    touch(root / "imagesUn" / "b\nc.nii.gz")
    with pytest.raises(MedSSLError, match="control characters"):
        read_dataset(root)


def test_half_a_character(tmp_path: Path) -> None:
    write_json(tmp_path, '{"name": "\\ud800", "labels": {"0": "b", "1": "a"}, "training": []}')
    with pytest.raises(MedSSLError, match="half a character"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "..", " ", "a\nb", "x" * 300])
def test_recipe_whose_name_leaves_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(MedSSLError, match="name"):
        resolve({"name": name}, path=tmp_path / "r.yaml")


# ---------------------------------------------------------------------- check and plan


@pytest.fixture
def scattered(tmp_path: Path) -> Path:
    """A dataset whose first case lies beside its folder, and whose second far away."""
    data = write_dataset(tmp_path / "sets" / "data", cases=6)
    content = json.loads((data / "dataset.json").read_text())
    for index, folder in enumerate((data.parent, tmp_path / "far")):
        folder.mkdir(exist_ok=True)
        item = content["training"][index]
        for kind in ("image", "label"):
            target = folder / f"{kind}_{index}.nii.gz"
            (data / item[kind]).rename(target)
            item[kind] = str(target) if index else f"../{target.name}"
        item["id"] = f"case_{index:02d}"
    (data / "dataset.json").write_text(json.dumps(content))
    return data


def test_check_and_its_repair(
    scattered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["check", str(scattered)]) == 2
    assert "--allow-outside" in capsys.readouterr().err
    files = {p for p in tmp_path.rglob("*") if p.is_file()}
    copy, facts = tmp_path / "copies" / "copy", tmp_path / "facts.json"
    command = ["check", str(scattered), "--allow-outside", "--repair", str(copy)]
    assert cli.run([*command, "--json", str(facts)]) == 0
    assert "../" not in capsys.readouterr().err
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - files - {facts}
    assert all(p.is_relative_to(copy) for p in new), "nothing is written beside the copy"
    cases = read_dataset(copy).training  # without leave
    assert [c.id for c in cases] == [f"case_{i:02d}" for i in range(6)]
    before = read_dataset(scattered, allow_outside=True).training
    for old, now in zip(before, cases, strict=True):
        assert old.images[0].read_bytes() == now.images[0].read_bytes()
        assert old.label is not None
        assert now.label is not None
        assert old.label.read_bytes() == now.label.read_bytes()


def test_channels_of_one_name_from_two_folders(tmp_path: Path) -> None:
    for folder in ("t1", "t2"):
        (tmp_path / folder).mkdir()
    root = tmp_path / "data"
    channels = (tmp_path / "t1" / "x.nii.gz", tmp_path / "t2" / "x.nii.gz")
    case = Case("c", channels, None, "c")
    dataset = SimpleNamespace(root=root)
    places = [_place(p, case, "imagesTr", dataset, n) for n, p in enumerate(channels)]
    assert places == ["imagesTr/c_x.nii.gz", "imagesTr/c_1_x.nii.gz"]
    assert _place(root / "../x.nii.gz", case, "imagesTr", dataset) == "imagesTr/c_x.nii.gz"
    assert _place(root / "sub/x.nii.gz", case, "imagesTr", dataset) == "sub/x.nii.gz"


def test_a_plan_hands_the_leave_on(
    scattered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    command = ["plan", str(scattered), "--method", "supervised", "--output", str(recipe)]
    command += ["--device", "cpu", "--memory", "8"]
    assert cli.run(command) == 2
    assert "--allow-outside" in capsys.readouterr().err
    assert cli.run([*command, "--allow-outside"]) == 0
    loaded = load_recipe(recipe)
    assert loaded.recipe.data.allow_outside
    splits = plan_cases(loaded, Display(quiet=True)).splits
    assert len(splits.labeled) + len(splits.validation) + len(splits.test) == 6

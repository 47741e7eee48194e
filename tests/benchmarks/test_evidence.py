"""The page of evidence and README say what the file of figures holds."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medssl.data.phantoms.dataset import write_phantom
from medssl.methods.gains import GAINS, gain_of
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
MIXING = "hippocampus-4-mixing-development"
PARTS = "hippocampus-4-parts-development"
KEYS = ("teacher", "selection", "view", "adapt", "target", "loss", "normalize")


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evidence

    return evidence


@pytest.fixture
def arms(evidence: ModuleType) -> ModuleType:
    import arms

    return arms


def row(arm: str, seed: int, dice: list[float]) -> dict[str, Any]:
    both = {"Anterior": dice, "Posterior": [value - 0.02 for value in dice]}
    return {
        "group": "hippocampus-8",
        "arm": arm,
        "seed": seed,
        "labels": 8,
        "iterations": 1500,
        "minutes": 8.0,
        "precision": "fp32",
        "dice": both,
    }


def test_pages_and_readme_are_those_of_their_files(evidence: ModuleType, arms: ModuleType) -> None:
    for table in arms.TABLES.values():
        rows = evidence.read(evidence.DOCS / table.figures)
        page = evidence.DOCS / table.page
        if rows:
            before = page.read_text(encoding="utf-8")
            assert before == evidence.page(table, rows, before)
    rows = evidence.read(evidence.DOCS / "evidence.json")
    readme = evidence.README.read_text(encoding="utf-8")
    shown = [r for r in rows if r["group"] == evidence.TABLED]
    if shown:
        assert readme == evidence.between(readme, "evidence", evidence.table(shown))


def test_a_table_says_the_paired_gain(evidence: ModuleType) -> None:
    alone = [0.80, 0.82, 0.84]
    rows = [row("bcp", s, [0.83, 0.84, 0.85]) for s in (0, 1)]
    rows += [row("supervised", s, alone) for s in (0, 1)]
    first, second = evidence.table(rows)[2:]
    assert first.startswith("| `supervised` | 8 | 0.8100 (0.8100, 0.8100) |  |")
    # Gains of 0.03, 0.02 and 0.01; t with 2 degrees of freedom is 4.303.
    half = 4.3027 * 0.01 / np.sqrt(3)
    assert f"| +0.0200 [{0.02 - half:+.4f}, {0.02 + half:+.4f}] |" in second
    assert "Anterior +0.020, Posterior +0.020" in second


def test_the_share_of_the_gap_is_said(evidence: ModuleType, arms: ModuleType) -> None:
    rows = [row("bcp", 0, [0.83, 0.83]), row("supervised", 0, [0.80, 0.82])]
    other = [{**one, "group": "organ-8-development"} for one in rows]
    rows = [{**one, "group": "organ-8"} for one in rows]
    everything = {**row("supervised", 0, [0.85, 0.87]), "group": "organ-all", "labels": 99}
    said = "Of the way to all 99 labels alone (0.8500; same network and budget): `bcp` 40%."
    page = evidence.page(arms.TABLES["evidence"], [*rows, *other, everything], "")
    assert page.count("Of the way") == page.count(said) == 1
    assert "Of the way" not in evidence.page(arms.TABLES["evidence"], [*rows, *other], "")


def test_figures_of_other_runs_stay(evidence: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    for one in (row("bcp", 1, [0.8]), row("bcp", 0, [0.7]), row("bcp", 1, [0.9])):
        evidence.keep(one, path)
    kept = json.loads(path.read_text())
    assert [(r["seed"], r["dice"]["Anterior"]) for r in kept] == [(0, [0.7]), (1, [0.9])]


def test_a_page_changes_between_its_marks_alone(evidence: ModuleType, arms: ModuleType) -> None:
    import evidence_page

    begin = evidence_page.BEGIN.format("figures", "evidence.py")
    end = evidence_page.END.format("figures")
    before = f"before\n{begin}\nold\n{end}\nafter\n"
    rows = [{**row("default", s, [0.8, 0.9]), "auroc": 0.97} for s in (0, 1)]
    rows += [row("bcp", 0, [0.7, 0.9])]
    table = arms.TABLES["ablation"]
    made = evidence.page(table, rows, before)
    assert made.startswith(f"before\n{begin}\n### hippocampus-8\n")
    assert made.endswith(f"\n{end}\nafter\n")
    assert "old" not in made
    assert "| 0.97, 0.97 |" in made
    assert "The default minus `bcp` +0.0500 [" in made
    assert evidence.page(table, rows, made) == made
    assert evidence.page(table, rows, "no marks\n") == "no marks\n"


def test_arms_are_recipes_that_differ_in_method_alone(arms: ModuleType) -> None:
    groups: dict[str, dict[str, Any]] = {}
    for arm in arms.evidence():
        made = load_recipe(arm.recipe, ["data.root=root", *arm.settings]).recipe
        if arm.group not in ("hippocampus-8-development", arms.OPTIMIZERS):
            groups.setdefault(arm.group, {})[arm.name] = made
    for recipes in groups.values():
        alone = recipes[arms.ALONE]
        for name, other in recipes.items():
            free = {"unlabeled_batch"} | ({"iterations"} if name == arms.TWIN else set())
            assert other.network == alone.network
            assert other.data == alone.data
            assert _settings(other, free) == _settings(alone, free)


def _settings(recipe: Any, free: set[str]) -> dict[str, Any]:
    return recipe.training.model_dump(exclude=free)


def test_optimizers_are_compared_in_nothing_else(arms: ModuleType) -> None:
    made = [
        load_recipe(a.recipe, ["data.root=root", *a.settings]).recipe for a in arms.optimizers()
    ]
    free = {"optimizer", "schedule"}
    assert {r.training.optimizer.name for r in made} == {"adam", "adamw", "sgd"}
    assert len({str(_settings(r, free)) for r in made}) == 1
    assert {r.method.name for r in made} == {arms.ALONE}


def test_the_list_of_methods_says_what_was_measured(evidence: ModuleType) -> None:
    from evidence_page import by_arm, gain

    rows = evidence.read(evidence.DOCS / "evidence.json")
    mixing = by_arm([r for r in rows if r["group"] == MIXING], "supervised")
    parts = evidence.read(evidence.DOCS / "self_training.json")
    parts = by_arm([r for r in parts if r["group"] == PARTS], "default")
    page = (evidence.DOCS / "hippocampus.md").read_text(encoding="utf-8")
    for method, figures in GAINS.items():
        if method == "self_training":
            found = gain(parts["default"], parts["supervised"])
            assert figures == pytest.approx((found.mean, found.low, found.high), abs=6e-5)
        elif f"{method}_cutmix" in mixing:
            found = gain(mixing[f"{method}_cutmix"], mixing["supervised"])
            assert figures == pytest.approx((found.mean, found.low, found.high), abs=6e-5)
        else:
            mean, low, high = figures
            (line,) = [x for x in page.splitlines() if x.startswith(f"| `{method}` | 0.")]
            assert f"| {mean:+.4f} [{low:+.4f}, {high:+.4f}] |" in line
    assert gain_of("bcp").startswith("+0.013 [")
    assert gain_of("umct").startswith("not shown: ")
    assert gain_of("supervised") == ""


def test_choices_keep_away_from_the_test_cases(arms: ModuleType) -> None:
    cases = json.loads((ROOT / "benchmarks" / "development_cases.json").read_text())
    mixing, parts = list(arms.mixing()), list(arms.ablation())
    assert [arm.name for arm in parts[:3]] == ["default", "supervised", "bcp"]
    recipes = [
        load_recipe(arm.recipe, [*arm.place(Path("data"), Path("runs")), *arm.settings]).recipe
        for arm in (*parts[:3], mixing[-1])
    ]
    for recipe in recipes:
        assert len(recipe.data.labeled) == 4
        assert set(recipe.data.labeled) < set(cases["labeled"])
        assert set(recipe.data.excluded) == set(cases["test"])
        assert recipe.network == recipes[0].network
        same = {"exclude": {"unlabeled_batch"}}
        assert recipe.training.model_dump(**same) == recipes[0].training.model_dump(**same)
    names = [arm.name for arm in mixing]
    assert names[:3] == ["supervised", "fixmatch_none", "fixmatch_cutmix"]


def test_the_ablation_has_every_value_of_every_slot(arms: ModuleType) -> None:
    """A word of a setting that no arm tries would go unmeasured."""
    tried = {key: {repr(row[key]) for row in arms.SLOTS.values() if key in row} for key in KEYS}
    words = {key: set(map(repr, SelfTrainingSettings.words(key))) for key in KEYS}
    for key in KEYS:
        left_out = words[key] - tried[key] - {repr(getattr(SelfTrainingSettings(), key))}
        # By turn is of teachers that take turns (dual_teacher), global of a federation.
        assert left_out <= {"'by_turn'", "'global'"}, key
    for given in (*arms.SLOTS.values(), *({"preset": name} for name in arms.PRESETS)):
        assert list(SelfTrainingSettings(**given).check_recipe(Recipe())) == []
    # Preset fedlabel is one of a federation, too; shrinkmatch is refused for three classes.
    untried = {"mixed", "fedlabel", "shrinkmatch"}
    assert {*arms.PRESETS, *untried} == SelfTrainingSettings.words("preset")
    runs = [(a.group, a.name, a.seeds) for a in arms.ablation()]
    assert len({name for _, name, _ in runs}) == len(runs)
    assert runs[0] == ("hippocampus-4-parts-development", "default", 3)


def test_finished_runs_are_read_and_toy_runs_follow_their_settings(
    evidence: ModuleType, arms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = arms.Arm("some-group", "view strong, two of them", "no_such_recipe")
    folder = evidence.folder_of(arm, 1, tmp_path)
    assert folder.name == "some-group_view-strong-two-of-them_1"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"status": "finished"}))
    monkeypatch.setattr(evidence, "figures_of", lambda run: {"run": run.name})
    found = evidence.train_arm(arm, 1, Path("none"), tmp_path)
    assert found == {"group": "some-group", "arm": arm.name, "seed": 1, "run": folder.name}

    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    import toy_task

    monkeypatch.setattr(toy_task, "ITERATIONS", 2)
    given: list[Any] = []
    train = toy_task.train

    def shorter(*args: Any, **more: Any) -> Any:
        given.append((args[0], more["given"]))
        return train(*args, 2, **more)

    monkeypatch.setattr(toy_task, "train", shorter)
    toy = {arm.name: arm for arm in arms.ablation(arms.TOY)}
    for name in ("supervised", "mixing shuffle, paste"):
        played = evidence.play(toy[name], 0)
        assert len(played["dice"]["both"]) == toy_task.HELD_OUT
    assert given == [
        ("supervised", {}),
        ("self_training", {"mixing": ["shuffle", "paste"]}),
    ]


def test_poisoned_datasets(
    arms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import poison

    assert poison.wrong_cases("noise")[0] == "mr_029"
    monkeypatch.setattr(poison, "TEST", 0)
    monkeypatch.setattr(poison, "UNLABELED", 7)
    plain = write_phantom(tmp_path / "plain", labeled=4, unlabeled=7, test=0, shape=poison.SHAPE)
    wrong = poison.wrong_cases("modality")
    assert (wrong[0], len(wrong)) == ("mr_005", 6)
    changed: dict[str, Any] = {}
    for kind in ("modality", "noise", "organ"):
        root = poison.poisoned_dataset(kind, tmp_path)
        for path in sorted((root / "imagesUn").iterdir()):
            same = path.read_bytes() == (plain / "imagesUn" / path.name).read_bytes()
            assert same == (path.name.split(".")[0] not in wrong)
        changed[kind] = nib.load(root / "imagesUn" / f"{wrong[0]}.nii.gz").get_fdata()
    before = nib.load(plain / "imagesUn" / f"{wrong[0]}.nii.gz").get_fdata()
    inside = before > np.percentile(before, 60)
    assert np.corrcoef(before[inside], changed["modality"][inside])[0, 1] < -0.9
    assert abs(np.corrcoef(before.ravel(), changed["noise"].ravel())[0, 1]) < 0.05
    root = poison.poisoned_dataset("mirrored", tmp_path)
    named = json.loads((root / "dataset.json").read_text())["labels"]
    assert {int(k): v for k, v in named.items() if k != "0"} == poison.ABDOMEN
    found = nib.load(root / "labelsTr" / "ct_001.nii.gz")
    label, affine = np.asarray(found.dataobj), found.affine
    x = {k: (affine[:3, :3] @ np.argwhere(label == k).mean(0))[0] for k in (1, 3, 5)}
    assert x[3] > x[5], "the right kidney is at the right"
    assert x[1] > x[5], "and so is the liver"


def test_scans_below_the_good_ones_are_counted(evidence: ModuleType, tmp_path: Path) -> None:
    rows = "case,weight,score\na,0,0.1\nb,1,0.5\nc,1,0.5\nd,1,0.9\n"
    (tmp_path / "unlabeled.csv").write_text(rows)
    assert evidence.auroc(tmp_path, ["a"]) == 1
    assert evidence.auroc(tmp_path, ["a", "b"]) == pytest.approx((2 + 1.5) / 4)


FIGURES = ROOT / "docs" / "self_training.json"


def test_every_preset_beat_labels_alone_on_the_toy_task(
    evidence: ModuleType, arms: ModuleType
) -> None:
    import evidence_page

    rows = [r for r in evidence.read(FIGURES) if r["group"] == "toy"]
    found = evidence_page.by_arm(rows, "default")
    presets = {name: runs for name, runs in found.items() if name.startswith("preset")}
    assert len(presets) == len(arms.PRESETS)
    for name, runs in {"default": found["default"], **presets}.items():
        assert evidence_page.gain(runs, found["supervised"]).mean > 0, name

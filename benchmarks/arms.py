"""What `evidence.py` trains: tables of arms, each a recipe with settings and a number of seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from development import CASES, development_settings, on_small_network
from poison import KINDS, LABELED, MIRRORED, poisoned_dataset, wrong_cases

ALONE, DEFAULT, WITHOUT = "supervised", "default", "without"
OPTIMIZERS, ADAM = "hippocampus-4-optimizers-development", "adam"
TOY = "toy"
"""In the place of a recipe: the task of ``tests/support/toy_task.py``, 2-D and seconds a run."""


@dataclass(frozen=True)
class Arm:
    """One recipe with its settings, trained with several seeds.

    Attributes:
        group: what is compared with each other.
        name: of the arm within its group.
        recipe: shipped recipe, or :data:`TOY`.
        settings: ``section.key=value`` beside those of the group.
        seeds: one run each.
        folder: the dataset's folder within ``--data``.
        poison: fault of a dataset that is made, see ``poison.py``.
    """

    group: str
    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    seeds: int = 1
    folder: str = "Task04_Hippocampus"
    poison: str = ""

    def place(self, data: Path, runs: Path) -> list[str]:
        """Return the settings that say which cases take part.

        Args:
            data: folder of the Decathlon datasets.
            runs: folder of the runs, where datasets that are made lie, too.
        """
        if self.poison:
            return [f"data.root={poisoned_dataset(self.poison, runs.resolve() / 'data')}"]
        root = (data / self.folder).resolve()
        if self.group.endswith("-development"):
            return development_settings(root)
        return [f"data.root={root}"]


BASE = {
    "network": "{name: dynunet, filters: [16, 32, 64, 128], deep_supervision: true}",
    "training.iterations": "1500",
    "training.augment": "light",
    "training.precision": "bf16",
    "inference.tta": "true",
}
"""A full-resolution U-Net of the small recipes' widths, mirrored as the data spec allows."""

DEFORM = {"training.augment": "{preset: light, deform_voxels: 2.0}"}
LONGER = {"training.iterations": "3000"}
CHOICES: dict[str, dict[str, str]] = {
    ALONE: {},
    "plain": {"network": "{name: dynunet, filters: [16, 32, 64, 128]}"},
    "augment": {"training.augment": "nnunet"},
    "deform": DEFORM,
    "longer": LONGER,
    "adamw": {
        "training.optimizer": "{name: adamw, lr: 0.001, weight_decay: 0.01}",
        "training.schedule": "{name: poly, warmup: 75}",
    },
    "sgd": {"training.optimizer": "{name: sgd, lr: 0.01, momentum: 0.99, nesterov: true}"},
    "fp32": {"training.precision": "fp32"},
}
"""What the base was chosen among, on the development set; ``plain`` without deep supervision."""

BCP_CHOICES = {
    "bcp": {},
    "bcp_deform": DEFORM,
    "bcp_longer": LONGER,
    "mixed": DEFORM | {"method": "{name: self_training}"},
}

TWIN, AS_LONG = "supervised, as long as bcp", ("training.iterations=4000",)
"""Labels alone in the processor time of ``bcp``, whose 3000 iterations take 1.3 times as long."""


def evidence() -> Iterator[Arm]:
    """Yield the arms of the evidence in the order in which they are trained."""
    for recipe, choices in ((ALONE, CHOICES), ("bcp", BCP_CHOICES)):
        for name, changes in choices.items():
            settings = tuple(f"{key}={value}" for key, value in (BASE | changes).items())
            yield Arm("hippocampus-8-development", name, f"hippocampus_{recipe}", settings)
    for labels, seeds in (("8", 3), ("4", 1), ("16", 1)):
        group, some = f"hippocampus-{labels}", (f"data.labeled={labels}",)
        yield Arm(group, ALONE, "hippocampus_supervised", some, seeds)
        yield Arm(group, "bcp", "hippocampus_bcp", some, seeds)
        if labels == "8":
            yield Arm(group, TWIN, "hippocampus_supervised", (*some, *AS_LONG))
    everything = ("data.labeled=all",)
    yield Arm("hippocampus-all", ALONE, "hippocampus_supervised", everything)
    yield from mixing()
    yield from optimizers()
    yield from hearts()


HEART = (
    "protocol=clean",
    "network={name: dynunet, filters: [16, 32, 64, 128], deep_supervision: true}",
    "training.optimizer={name: adam, lr: 0.001, weight_decay: 0.0}",
    "training.schedule=poly",
    "training.augment=light",
    "inference.overlap=0.25",
    "evaluation.splits=[test]",
)
ACDC = (
    *HEART,
    "data.labeled={file: splits.json, key: labeled_10pct_patients}",
    "data.validation=0",
    "data.test={file: splits.json, key: val}",
    "spec={name: mr_cardiac, spacing: [1.5, 1.5, null]}",
    "training={iterations: 3000, patch: [128, 128], labeled_batch: 8, unlabeled_batch: 8}",
)
ATRIUM = (
    *HEART,
    "data.test=20",
    "spec={name: mr_atrium, spacing: [1.25, 1.25, 1.25]}",
    "training={iterations: 2000, patch: [64, 80, 40], labeled_batch: 2, unlabeled_batch: 2}",
)
"""What a plan writes for a CPU that has an hour; the left atrium at half of its resolution."""


def hearts() -> Iterator[Arm]:
    """Yield the default and labels alone on ACDC, 7 patients in 2D, and on the left atrium, 8."""
    for group, recipe, common, folder, bcp in (
        ("acdc-7", "acdc", ACDC, "Task101_ACDC", "{name: bcp, largest_component: 'off'}"),
        ("la-8", "la", ATRIUM, "Task102_LeftAtrium", "bcp"),
    ):
        for method, given in ((ALONE, ALONE), ("bcp", bcp)):
            settings = (*common, f"method={given}")
            yield Arm(group, method, f"{recipe}_{method}", settings, folder=folder)


def four_labels() -> tuple[str, ...]:
    """Return what the small network is trained with on the development set: 4 labels."""
    labeled = json.loads(CASES.read_text(encoding="utf-8"))["labeled"][:4]
    return (f"data.labeled=[{', '.join(labeled)}]", "training.iterations=1000")


MIXING = ("fixmatch", "mean_teacher", "cps", "uamt")
"""Methods that mix patches or do not."""


def mixing() -> Iterator[Arm]:
    """Yield each method that can mix, with it and without."""
    group, common = "hippocampus-4-mixing-development", four_labels()
    for method in (ALONE, *MIXING):
        recipe, own = on_small_network(method)
        for way in ("none", "cutmix") if method in MIXING else ("",):
            name, more = (f"{method}_{way}", [f"method.mixing={way}"]) if way else (method, [])
            yield Arm(group, name, recipe, (*common, *own, *more), 2)


def optimizers() -> Iterator[Arm]:
    """Yield labels alone with each optimizer, on the small network."""
    recipe, own = on_small_network(ALONE)
    for name in (ADAM, "adamw", "sgd"):
        given = (f"{key}={value}" for key, value in CHOICES.get(name, {}).items())
        yield Arm(OPTIMIZERS, name, recipe, (*four_labels(), *own, *given), 2)


# ---------------------------------------------------------------------- the ablation


def _slot(name: str, *values: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {f"{name} {value}": {name: value, **more} for value in values}


FASTER = "ema_decay 0.96, mixing cutmix"
SLOTS: dict[str, dict[str, Any]] = {
    **_slot("teacher", "student", "slow", "dual", "future"),
    **_slot("selection", "none", "adaptive", "softmatch", "gmm", "two_level", "gate"),
    **_slot("selection", "agreement", teacher="slow"),
    **{f"threshold {value:g}": {"threshold": value} for value in (0.5, 0.95)},
    **{f"weight {w}": {"weight": [w]} for w in ("confidence", "boundary")},
    **{f"weight {w}": {"weight": [w]} for w in ("soft_background", "case")},
    **_slot("view", "strong", "joined"),
    **_slot("adapt", "otsu", view="strong", mixing="cutmix"),
    "feature_drop 0.5": {"feature_drop": 0.5},
    "view strong, two of them": {"view": "strong", "views": 2},
    **_slot("mixing", "none", "cutmix", "paste", "shuffle", "cube"),
    "mixing shuffle, paste": {"mixing": ["shuffle", "paste"]},
    **_slot("target", "soft", "sharpened"),
    **_slot("loss", "ce"),
    "elr_weight 1": {"elr_weight": 1.0},
    "normalize kept": {"normalize": "kept"},
    FASTER: {"ema_decay": 0.96, "mixing": "cutmix"},
}
"""Each slot's values other than those of preset ``mixed``: settings of ``self_training``. The last
is what preset ``fst`` has to beat: an average that forgets as fast as one that is moved four times.
"""
PRESETS = (
    *("fixmatch", "uda", "unimatch", "dual_teacher", "hssda", "consistent_teacher", "cw_bass"),
    *("reviewer", "elr", "soft_teacher", "open_set", "fst", "saa"),
)
"""Those whose papers put parts together for three classes, too: ``shrinkmatch`` takes five."""
OTHERS = {ALONE: 3, "bcp": 3, "preset fixmatch": 3, "mixing cutmix": 3, FASTER: 3}
"""Seeds of what the default is held against; a row has one."""


def ablation(recipe: str = "hippocampus_self_training") -> Iterator[Arm]:
    """Yield the default, what it is held against, then each slot's values and the presets.

    Args:
        recipe: shipped recipe, or :data:`TOY`, where presets have three seeds, too.
    """
    toy = recipe == TOY
    group, common = (TOY, ()) if toy else ("hippocampus-4-parts-development", four_labels())
    yield Arm(group, DEFAULT, recipe, common, 3)
    for method in (ALONE, "bcp"):
        other, own = on_small_network(method)
        given = (f"method={method}",) if toy else (*common, *own)
        yield Arm(group, method, TOY if toy else other, given, 3 if toy else OTHERS[method])
    rows = {**SLOTS, **{f"preset {preset}": {"preset": preset} for preset in PRESETS}}
    for name, settings in rows.items():
        given = tuple(f"method.{key}={json.dumps(value)}" for key, value in settings.items())
        seeds = 3 if toy and "preset" in settings else OTHERS.get(name, 1)
        yield Arm(group, name, recipe, (*common, *given), seeds)


# ---------------------------------------------------------------------- unlike scans

SMALL = (
    "network={name: unet, channels: [8, 16, 32], strides: [2, 2], num_res_units: 0}",
    "training={iterations: 300, patch: [32, 32, 16], labeled_batch: 2, unlabeled_batch: 4, "
    "optimizer: {name: adam, lr: 0.005}, log_every: 50, validate_every: 300}",
)
SIDES = ("spec={name: ct_abdomen, spacing: native, label_pairs: [[3, 5]]}",)


def poison() -> Iterator[Arm]:
    """Yield, for each kind of fault, training with such scans, with them weighed, and without."""
    for kind in KINDS:
        phantom = "ct" if kind == MIRRORED else "mr"
        group = f"poison-{phantom}"
        named = [f"{phantom}_{k:03d}" for k in range(1, LABELED + 25)]
        common = (
            *(SIDES if phantom == "ct" else ()),
            f"data.labeled=[{', '.join(named[:LABELED])}]",
            f"data.test=[{', '.join(named[LABELED:])}]",
            *SMALL,
        )
        method = "method={name: self_training, weight: WEIGHT}"
        ways: dict[str, tuple[str, ...]] = {kind: (), f"{kind}, weighed": ()}
        if kind in (next(iter(KINDS)), MIRRORED):
            left_out = f"data.excluded=[{', '.join(wrong_cases(kind))}]"
            ways = {ALONE: (), WITHOUT: (left_out,), **ways}
        for name, more in ways.items():
            weight = "[case]" if name.endswith("weighed") else "none"
            learns = "method=supervised" if name == ALONE else method.replace("WEIGHT", weight)
            yield Arm(group, name, "quickstart", (*common, learns, *more), 3, poison=kind)


@dataclass(frozen=True)
class Table:
    """Arms whose figures stand on one page.

    Attributes:
        arms: yields them in the order in which they are trained.
        figures: file of the figures within ``docs``.
        page: that shows them within ``docs``, whole or between marks.
        reference: arm of each group that the others are held against.
    """

    arms: Callable[[], Iterator[Arm]]
    figures: str
    page: str
    reference: str


def _parts() -> Iterator[Arm]:
    yield from ablation(TOY)
    yield from ablation()


TABLES: dict[str, Table] = {
    "evidence": Table(evidence, "evidence.json", "evidence.md", ALONE),
    "ablation": Table(_parts, "self_training.json", "self_training.md", DEFAULT),
    "poison": Table(poison, "unlike_scans.json", "unlike_scans.md", WITHOUT),
}


def chosen(table: Table, asked: Sequence[str], toy: bool = False) -> Iterator[Arm]:
    """Yield the arms of a table that are asked for.

    Args:
        table: of all arms.
        asked: groups, or ``GROUP/ARM``; empty for all.
        toy: those of the toy task alone.
    """
    for arm in table.arms():
        if toy and arm.recipe != TOY:
            continue
        if not asked or {arm.group, f"{arm.group}/{arm.name}"} & set(asked):
            yield arm

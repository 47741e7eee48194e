"""Speed and memory at the settings of the literature, against a plain loop in the same run.

``la``: V-Net, 112 x 112 x 80, 4 + 4 patches, two classes. ``acdc``: the 2D U-Net, 256 x 256,
12 + 12 slices, four classes. Networks, batches, losses and augmentation are those of the recipes
`la_bcp`, `la_supervised`, `acdc_bcp` and `acdc_supervised`; the scans are synthetic. medssl is
measured through its engine, with data path and logging: float32, bf16 and fp16, augmentation and
cases on the device or the host, eager and compiled. Each way to train has a process of its own: so
its memory is its own, and what does not fit spoils nothing else. Each figure is the time of a step
of the plain loop (`plain_loop.py`) over that of medssl; the rows about "busy" are the share of the
time in which the card computes.

    python benchmarks/literature.py --setting la [--methods bcp] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Row, describe_error, options_of, out_of_memory, run_part
from measuring import NEVER, child_environment, device_of, text_of, train
from plain_loop import PlainLoop, untuned
from stretch import Speed, Stretch
from synthetic import write_ellipsoids

from medssl.device import resolve_precision
from medssl.models.create import create_method
from medssl.progress import Display
from medssl.recipe.find import list_recipes
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.training.cases import plan_cases
from medssl.training.compilation import wants_compiling
from medssl.training.prepare import TrainingData, prepare_cases


@dataclass(frozen=True)
class Setting:
    """A setting of the literature, and a small one of the same kind."""

    shape: tuple[int, ...]
    classes: int
    patch: tuple[int, ...]
    quick_shape: tuple[int, ...]
    quick_patch: tuple[int, ...]
    changes: dict[str, Any]


SETTINGS = {
    "la": Setting((176, 144, 88), 2, (112, 112, 80), (48, 40, 24), (32, 32, 16), {}),
    "acdc": Setting(
        (256, 216, 10),
        4,
        (256, 256),
        (64, 64, 6),
        (64, 64),
        {"data.patients": None, "data.validation": 0},
    ),
}
CASES, LABELED = 16, 8


@dataclass(frozen=True)
class Experiment:
    """A way to train: precision, where the data path is, and whether networks are compiled."""

    name: str
    precision: str
    on_device: bool = True
    compiled: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """What a recipe says for it."""
        return {
            "training.precision": self.precision,
            "training.augment.place": "auto" if self.on_device else "loader",
            "training.cache_on_device": "auto" if self.on_device else False,
            "training.compile": self.compiled,
        }


def experiments_for(device: torch.device) -> tuple[list[Experiment], str]:
    """Return the experiments that make sense on a device, and the name of the one with a target."""
    able = device.type == "cuda" and wants_compiling("auto", device, NEVER)
    best = resolve_precision("auto", device)
    experiments = [Experiment("fp32", "fp32")]
    if device.type == "cuda":
        # The fastest safe precision of this card first: it is what a user gets.
        halves = ["bf16", "fp16"] if best == "bf16" else ["fp16"]
        experiments = [
            Experiment(halves[0], halves[0]),
            *experiments,
            *(Experiment(h, h) for h in halves[1:]),
        ]
        experiments.append(Experiment(f"{best}, data path on the host", best, on_device=False))
    else:
        experiments.append(Experiment("bf16", "bf16"))
    if able:
        experiments.append(Experiment(f"{best}, compiled", best, compiled=True))
        experiments.append(Experiment("fp32, compiled", "fp32", compiled=True))
    return experiments, experiments[0].name


class Bench:
    """One setting on one device: its data, and how ways to train are measured on it."""

    def __init__(self, name: str, folder: Path, device: torch.device, *, quick: bool) -> None:
        self.name, self.folder, self.device, self.quick = name, folder, device, quick
        self.setting = SETTINGS[name]

    def write_data(self) -> None:
        """Write the scans, and preprocess them."""
        shape = self.setting.quick_shape if self.quick else self.setting.shape
        classes = self.setting.classes
        write_ellipsoids(self.folder / "data", cases=CASES, shape=shape, classes=classes)
        self.cases("bcp")

    def stretch(self) -> Stretch:
        """Return how many steps are measured."""
        if self.quick:
            return Stretch(self.device, warm=2, steps=5)
        # On a card the first steps choose algorithms, and single steps are short.
        card = self.device.type == "cuda"
        return Stretch(self.device, warm=12 if card else 2, steps=40 if card else 3)

    def changes(self, method: str, iterations: int) -> dict[str, Any]:
        """Return what the shipped recipe is changed by."""
        patch = self.setting.quick_patch if self.quick else self.setting.patch
        return {
            "data.root": self.folder / "data",
            "data.cache": self.folder / "cache",
            "data.labeled": LABELED,
            "data.test": 0,
            "training.patch": list(patch),
            "training.iterations": iterations,
            "training.validate_every": NEVER,
            "training.checkpoint_every": NEVER,
            **({"method.pretrain_fraction": 0} if method == "bcp" else {}),
            **({"spec.resize": [*patch, None]} if len(patch) == 2 else {}),
            **self.setting.changes,
        }

    def load(self, method: str) -> LoadedRecipe:
        """Return the recipe."""
        changes = self.changes(method, 100)
        overrides = [f"{key}={text_of(value)}" for key, value in changes.items()]
        return load_recipe(list_recipes()[f"{self.name}_{method}"], overrides)

    def cases(self, method: str) -> TrainingData:
        """Return the preprocessed cases."""
        loaded, display = self.load(method), Display(quiet=True)
        return prepare_cases(loaded, plan_cases(loaded, display), display)

    def plain(self, method: str) -> Speed:
        """Measure the plain loop."""
        loaded, data, stretch = self.load(method), self.cases(method), self.stretch()
        recipe = loaded.recipe
        built = create_method(
            recipe, loaded.settings, num_classes=self.setting.classes, channels=1
        ).to(self.device)
        with untuned():
            loop = PlainLoop(
                built,
                recipe,
                labeled=data.labeled,
                unlabeled=data.unlabeled,
                device=self.device,
            )
            for _ in range(stretch.total):
                stretch.around(loop.step)
        assert stretch.speed is not None
        return stretch.speed

    def ours(self, method: str, experiment: Experiment) -> Speed:
        """Measure medssl's engine."""
        stretch = self.stretch()
        changes = {**self.changes(method, stretch.total), **experiment.changes}
        train(
            list_recipes()[f"{self.name}_{method}"],
            changes,
            folder=self.folder,
            device=str(self.device),
            around=lambda _, __, step: stretch.around(step),
        )
        assert stretch.speed is not None
        return stretch.speed


PLAIN = "plain loop"


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield the plain loop's time over medssl's for each method and way to train."""
    device = device_of(options)
    card = device.type == "cuda" and not options.quick
    experiments, first = experiments_for(device)
    with tempfile.TemporaryDirectory() as name:
        Bench(options.setting, Path(name), device, quick=options.quick).write_data()
        for method in options.methods:
            base: Row | None = None
            for experiment in (PLAIN, *(a.name for a in experiments)):
                title = f"{method}, {experiment}"
                target = ">= 2.5" if card and experiment == first else ""
                row = known.get(title) or row_of(title, base, target, options, Path(name))
                base = base or row
                yield row
                if row.details.get("busy") is not None and experiment != PLAIN:
                    wanted = ">= 95" if target else ""
                    yield Row(f"{title}, card busy", 100 * row.details["busy"], "%", wanted)


def row_of(title: str, base: Row | None, target: str, options: Namespace, folder: Path) -> Row:
    """Measure in a process of its own; ``base`` is what to compare with, if there is any."""
    ours = ["--experiment", title, "--folder", str(folder)]
    command = [sys.executable, __file__, *sys.argv[1:], *ours]
    done = subprocess.run(
        command, env=child_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if "reason" in found:
        return Row(title, None, note=found["reason"])
    speed = Speed(**found)
    value = 1 / speed.seconds_per_step
    if base is None or base.value is None:
        return Row(title, value, "it/s", note=speed.note(), details=speed.details())
    ratio = value / base.value
    return Row(title, ratio, "times plain", target, speed.note(), speed.details())


def measure_here(options: Namespace) -> dict[str, Any]:
    """Measure one way to train in this process; return a `Speed`, or why there is none."""
    device = device_of(options)
    bench = Bench(options.setting, options.folder, device, quick=options.quick)
    method, _, name = options.experiment.partition(", ")
    experiments = {experiment.name: experiment for experiment in experiments_for(device)[0]}
    try:
        speed = bench.plain(method) if name == PLAIN else bench.ours(method, experiments[name])
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"reason": describe_error(error)}
    return asdict(speed)


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="la")
    parser.add_argument("--methods", nargs="*", default=["supervised", "bcp"])
    parser.add_argument("--experiment", help="measure this one in this process")
    parser.add_argument("--folder", type=Path, help="of its data")
    given = parser.parse_args()
    if given.experiment:
        print(json.dumps(measure_here(given)))
    else:
        run_part(parser, measure)

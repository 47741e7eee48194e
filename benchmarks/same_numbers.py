"""Prove that a change of the code changes no number: train everything briefly, compare hashes.

    python benchmarks/same_numbers.py record FILE.json     # before the change
    python benchmarks/same_numbers.py compare FILE.json    # after it; exit code 1 if a bit differs

A row is a run of the command line on tiny scans written here: every method with every preset and
variant in 2D and 3D, other ways to run them, networks, settings of training and data. Hashed are
weights, buffers and optimizer state of ``checkpoints/last.pt``, and metrics.jsonl without clocks.

No module of medssl is imported by name: they may move. The code is the first on PYTHONPATH, or that
beside this script. Runs are forks of a process that has loaded it, ten seconds faster than
``python -m medssl`` each time (``--fresh``). Floats may depend on processor and torch: the file
names both, and ``compare`` says where they differ. Eight minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import platform
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import nibabel as nib
import numpy as np
import torch
import yaml

RECIPE = """
name: same_numbers
seed: 7
data: {root: data, labeled: [c0, c3], validation: [c5], cache: cache}
spec: {intensity: {rule: zscore}, flip_axes: [0], rotate_planes: [[0, 1]], largest_component: true}
network: {name: unet, channels: [4, 8, 16], strides: [2, 2], norm: batch, dropout: 0.1}
training:
  {iterations: 40, validate_every: 10, log_every: 2, optimizer: {name: adam, lr: 0.01},
  augment: {rotate_degrees: 15, intensity_probability: 0.2}, precision: fp32, workers: 0}
inference: {overlap: 0.25}
"""
"""Of all rows, whose settings are laid over it. Patches are 16 voxels wide unless a row says so."""

METHODS = """
supervised: [{}]
mean_teacher: [{preset: corrected}, {preset: official}]
uamt: [{preset: corrected}, {preset: official}]
cps: [{preset: corrected}, {preset: official, variant: paper}, {preset: official, variant: medical}]
fixmatch: [{preset: corrected}, {preset: official}]
bcp: [{preset: corrected}, {preset: official, variant: acdc}, {preset: official, variant: la},
  {preset: official, variant: pancreas}]
umct: [{}]
rail: [{preset: corrected}]
anatomical: [{preset: corrected}, {preset: official}]
pseudo_supervisor: [{preset: corrected}, {preset: official}]
"""
"""Rows that are trained in 3D and in 2D; the pseudo supervisor for two updates of its policy."""

MORE = """
# The official buffer holds 2 * 195 batches; its third turn is the first with all losses.
rail-official-3d: {method: {name: rail, preset: official, turn_length: 4},
  training: &single {labeled_batch: 1, unlabeled_batch: 1}}
rail-official-2d: {method: {name: rail, preset: official}, network: {name: unet, channels: [4, 8],
  strides: [2]}, training: {<<: *single, iterations: 600, validate_every: 300}}
rail-loaded-3d: {method: {name: rail, preset: official, turn_length: 4, loaded_batches: 18},
  training: {<<: *single, iterations: 35}}
rail-resvnet-3d: {method: rail, network: {name: vnet, filters: 2, dropout: 0.1},
  training: {patch: [32, 16, 16], iterations: 20}}
rail-one-group-3d: {method: {name: rail, groups: 1}}
uamt-certainty-3d: {method: {name: uamt, preset: official, consistency_on: all}}
anatomical-uniform-3d: {method: {name: anatomical, control: uniform}}
anatomical-identity-2d: {method: {name: anatomical, control: identity}}
policy-random-3d: {method: {name: pseudo_supervisor, selection: random}}
policy-high-2d: {method: {name: pseudo_supervisor, selection: always_0.95}}
cps-in-turn-3d: {method: {name: cps, labels_from: eval, predict_with: mean}}
bcp-bug-3d: {method: {name: bcp, preset: official, variant: acdc, legacy_background_bug: true}}
bcp-all-pieces-3d: {method: {name: bcp, largest_component: 'off'}}
bcp-one-stage-3d: {method: {name: bcp, pretrain_fraction: 0}}
fixmatch-kept-3d: {method: {name: fixmatch, normalize: kept}}
mean_teacher-whole-2d: {method: {name: mean_teacher, mixing: none}}
uamt-whole-3d: {method: {name: uamt, mixing: none}}
cps-whole-2d: {method: {name: cps, mixing: none}}
fixmatch-whole-3d: {method: {name: fixmatch, mixing: none}}
umct-six-views-3d: {method: {name: umct, views: 6, mc_samples: 4, target: soft, fusion: vote}}
umct-ulf-3d: {method: {name: umct, fusion: ulf, members: eval}}
# self-training: the presets that three classes allow outside a federation, then other parts
self-mixed-3d: {method: self_training}
self-mixed-2d: {method: self_training}
self-uda-2d: {method: {name: self_training, preset: uda}}
self-unimatch-3d: {method: {name: self_training, preset: unimatch, feature_drop: 0.5}}
self-dual_teacher-3d: {method: {name: self_training, preset: dual_teacher, turn: 3}}
self-hssda-3d: {method: {name: self_training, preset: hssda}}
self-consistent_teacher-2d: {method: {name: self_training, preset: consistent_teacher}}
self-cw_bass-3d: {method: {name: self_training, preset: cw_bass}}
self-reviewer-2d: {method: {name: self_training, preset: reviewer}}
self-elr-3d: {method: {name: self_training, preset: elr}}
self-soft_teacher-2d: {method: {name: self_training, preset: soft_teacher}}
self-fst-2d: {method: {name: self_training, preset: fst}}
self-saa-3d: {method: {name: self_training, preset: saa}}
self-open_set-3d: {method: {name: self_training, preset: open_set}}
self-adaptive-2d: {method: {name: self_training, selection: adaptive, target: soft}}
self-softmatch-3d: {method: {name: self_training, selection: softmatch, mixing: cube}}
self-gate-2d: {method: {name: self_training, selection: gate, mixing: paste}}
self-agreement-3d: {method: {name: self_training, selection: agreement, teacher: slow}}
self-joined-2d: {method: {name: self_training, view: joined, normalize: kept}}
masked-3d: {method: masked_pretraining}
volf-2d: {method: {name: masked_pretraining, pretext: volf}}
distill-3d: {method: {name: distill, teacher: supervised-3d}}
# networks
dynunet-deep-3d: {method: bcp, network: {name: dynunet, filters: [4, 8, 8],
  deep_supervision: true}}
vnet-3d: {method: mean_teacher, network: {name: vnet, filters: 2}, training: {patch: [32, 16, 16]}}
unet2d: {method: mean_teacher, network: {name: unet2d}, training: {patch: [32, 16]}}
unet-3d: {network: {name: unet, channels: [4, 8], strides: [2], num_res_units: 0}}
dynunet-3d: {network: {name: dynunet, filters: [4, 8, 8], dropout: 0.1}}
segresnet-3d: {network: {name: segresnet, init_filters: 8, dropout: 0.1}}
resvnet-2d: {network: {name: resvnet, filters: 2}, training: {patch: [32, 16]}}
ahnet-3d: {network: ahnet_r18, spec: {spacing: [0.375, 0.625, 0.75]},
  training: {patch: [64, 32, 32], labeled_batch: 1, iterations: 20}}
# training and data
sgd-3d: {method: fixmatch, training: {accumulate: 2, gradient_clip: 1,
  optimizer: {name: sgd, lr: 0.02, nesterov: true}, schedule: {name: step, step_size: 15}}}
stages-3d: {method: bcp, training: {labeled_batch: 3, optimizer: {name: adamw, lr: 0.005},
  stages: {self_train: {optimizer: {name: sgd}, schedule: {name: cosine}}}}}
early-stop-2d: {method: cps, training: {early_stop: 2, validate_every: 5,
  foreground_fraction: 1, schedule: {name: warmup_constant_cosine, warmup: 5}}}
spec-3d: {method: bcp, spec: {spacing: [1.2, 1.2, 1.2], pieces: {2: 2}, label_pairs: [[1, 2]],
  rot90_planes: [[0, 1]], intensity: {rule: percentile_zscore, lower: 1, upper: 99}},
  training: {augment: {scale: [0.8, 1.2], rotate_degrees: 30, intensity_probability: 0.5}}}
augment-3d: {method: mean_teacher, training: {augment: {preset: nnunet, deform_voxels: 2.0}}}
window-2d: {method: mean_teacher, inference: {stride: [4, 4], blend: constant, tta: true},
  spec: {slice_axis: 1, intensity: {rule: window, lower: 50, upper: 300}}}
"""
"""Other rows; those called 2d are."""


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and settings of all rows: keys of training and spec one by one."""
    found = {}
    for name, ways in yaml.safe_load(METHODS).items():
        more = {"training": {"iterations": 104}} if name == "pseudo_supervisor" else {}
        for how, size in itertools.product(ways, ("3d", "2d")):
            found["-".join([name, *how.values(), size])] = {"method": {"name": name} | how} | more
    for name, row in (found | yaml.safe_load(MORE)).items():
        flat = {"training.patch": [16, 16] if name.endswith("2d") else [16, 16, 16]}
        for section, value in row.items():
            parts = value.items() if section in ("training", "spec") else [("", value)]
            flat |= {f"{section}.{key}".strip("."): part for key, part in parts}
        yield name, json.loads(json.dumps(flat))


ROWS = dict(rows())
BUFFER = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$|^[^.]*$")
"""Names of buffers: of normalization, or a method's own, which have no dot."""
CLOCK = re.compile(r"seconds|per_second|memory|bytes")
ROOT = Path(__file__).resolve().parents[1]


def write_dataset(root: Path) -> None:
    """Write seven labeled scans of two noisy balls, one sparsely annotated, and two without."""
    shape, training = (24, 20, 16), list[dict[str, str]]()
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    for case in range(9):
        rng, name = np.random.default_rng(case), f"c{case}.nii.gz"
        label = np.zeros(shape, np.uint8)
        for value, share, radius in ((1, 0.35, 6), (2, 0.68, 4)):
            offset = grid - np.array(shape) * share - rng.uniform(-1, 1, 3)
            label[((offset / rng.uniform(0.85, 1.15, 3)) ** 2).sum(-1) <= radius**2] = value
        image = 100 + 150 * (label == 1) + 80 * (label == 2) + rng.normal(0, 15, shape)
        image[rng.random(shape) < 0.01] += 150  # specks that look like structures
        image, label[..., : 3 * (case == 0)] = image.astype(np.int16), 3
        files = {"imagesTr": image, "labelsTr": label} if case < 7 else {"imagesUn": image}
        training += [{k[:5]: f"./{k}/{name}" for k in files}] if case < 7 else []
        for folder, array in files.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 1.5, 1])), root / folder / name)
    labels = {"0": "background", "1": "bright", "2": "dim", "3": "ignore"}
    header = {"modality": {"0": "MRI"}, "labels": labels, "numTraining": 7, "training": training}
    (root / "dataset.json").write_text(json.dumps(header))


def pieces(value: Any) -> Iterator[bytes]:
    """Yield what is hashed of nested dictionaries, lists, tensors and plain values."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"\n{key}:".encode()
            yield from pieces(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield b"\n-"
            yield from pieces(item)
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        yield repr(value).encode()


def hashes(run: Path) -> dict[str, str]:
    """Return the hashes of a run's last checkpoint and of its log."""
    saved = torch.load(run / "checkpoints" / "last.pt", map_location="cpu", weights_only=True)
    state = saved["method_state"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    parts = {
        "weights": {k: v for k, v in state.items() if not BUFFER.search(k)},
        "buffers": {k: v for k, v in state.items() if BUFFER.search(k)},
        "optimizer": saved["optimizers"],
        "terms": [{k: v for k, v in line.items() if not CLOCK.search(k)} for line in lines],
    }
    return {k: hashlib.sha256(b"".join(pieces(v))).hexdigest()[:16] for k, v in parts.items()}


def command_line(arguments: Sequence[str], log: Path, fresh: bool) -> None:
    """Be ``python -m medssl`` in a process of its own; all it prints goes to ``log``."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if fresh:
        sys.exit(subprocess.call([sys.executable, "-m", "medssl", *arguments]))
    sys.argv = ["medssl", *arguments]
    runpy.run_module("medssl", run_name="__main__", alter_sys=True)


def measure(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Train rows here; return settings and hashes of each, or an empty dictionary if it failed."""
    started, found = time.monotonic(), {name: dict[str, Any]() for name in names}
    write_dataset(Path("data"))
    Path("recipe.yaml").write_text(RECIPE)
    if not options.fresh:  # load the program, which then finds no such recipe
        with open("first.log", "w") as log, redirect_stderr(log), suppress(SystemExit):
            sys.argv = ["medssl", "train", "no_such_recipe"]
            runpy.run_module("medssl", run_name="__main__", alter_sys=True)
    forks = multiprocessing.get_context("fork")
    waiting, running = list(names), dict[Any, Any]()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            changes = [x for k, v in ROWS[name].items() for x in ("--set", f"{k}={json.dumps(v)}")]
            command = ["train", "recipe.yaml", "--device", "cpu", "--output", name, *changes]
            given = (command, Path(f"{name}.log"), options.fresh)
            process = forks.Process(target=command_line, args=given)
            process.start()
            running[process.sentinel] = (name, process)
        for sentinel in wait(list(running)):
            name, process = running.pop(sentinel)
            process.join()
            told = f"{time.monotonic() - started:.0f} s: {name}"
            if process.exitcode:
                told += f": exit code {process.exitcode}\n{Path(f'{name}.log').read_text()[-1000:]}"
            else:
                found[name] = {"settings": ROWS[name], **hashes(Path(name))}
            print(told, file=sys.stderr, flush=True)
    return found


def asked(pattern: str) -> list[str]:
    """Return the rows with a pattern in their names, the runs that others learn from before all."""
    found = [name for name in ROWS if re.search(pattern, name)]
    methods = [ROWS[name].get("method") for name in found]
    teachers = [method.get("teacher") for method in methods if isinstance(method, dict)]
    return list(dict.fromkeys([*(name for name in teachers if name in ROWS), *found]))


def machine() -> dict[str, str]:
    """Return what the floats may depend on."""
    info = Path("/proc/cpuinfo")
    named = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    processor = [*named, platform.processor()][0]
    kinds = {"processor": processor, "instructions": torch.backends.cpu.get_cpu_capability()}
    return kinds | {name: version(name) for name in ("torch", "monai", "numpy", "scipy")}


def main() -> int:
    """Record or compare, as asked on the command line, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows with it (a regex)")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--fresh", action="store_true", help="start Python anew for each row")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="new folder in which runs stay")
    options = parser.parse_args()
    names = asked(options.only)
    file = options.file.resolve()
    recorded = json.loads(file.read_text()) if file.is_file() else {"machine": {}, "rows": {}}

    paths = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(ROOT)]
    sys.path[0:1] = paths = [os.path.abspath(path) for path in paths]  # not this script's folder
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    code = next((path for path in paths if (Path(path) / "medssl").is_dir()), "this environment")
    print(f"medssl of {code}, {len(names)} rows", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        os.chdir(folder)
        measured, here = measure(names, options), machine()
    if options.mode == "record":
        others = recorded["rows"] if options.only and recorded["machine"] == here else {}
        text = json.dumps({"machine": here, "rows": others | measured}, indent=1)
        file.write_text(text + "\n")
        failed = [f"{name}: does not train" for name in names if not measured[name]]
        print(*failed, f"{len(names) - len(failed)} rows recorded in {file}", sep="\n")
        return int(bool(failed))
    for key, value in here.items():
        if (before := recorded["machine"].get(key)) != value:
            print(f"note: {key} was {before}, is {value}; floats may differ for that reason alone")
    found, old = [], recorded["rows"]
    for name, row in measured.items():
        if not row or not old.get(name):
            found.append(f"{name}: {'not in the file' if row else 'does not train'}")
        elif wrong := [part for part in row if old[name][part] != row[part]]:
            found.append(f"{name}: {', '.join(wrong)} differ")
    gone = [name for name in old if name not in ROWS and re.search(options.only, name)]
    found += [f"{name}: in the file, but no row now" for name in gone]
    print(*found, f"{len(names)} rows compared, {len(found)} differences", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

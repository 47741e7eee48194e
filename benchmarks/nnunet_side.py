"""nnU-Net's half of `nnunet.py`: plan, train and predict, in the environment that has nnU-Net.

Called by `nnunet.py`, with nnU-Net's three folders in the environment. Needs nothing of medssl.

    python benchmarks/nnunet_side.py version
    python benchmarks/nnunet_side.py plan --widths 0.5
    python benchmarks/nnunet_side.py train --iterations 1500 --seconds FILE
    python benchmarks/nnunet_side.py pace --iterations 12 [--keep-memory]
    python benchmarks/nnunet_side.py predict --iterations 1500 --images FOLDER --output FOLDER
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATASET, NAME, CONFIGURATION = 900, "Dataset900_SideBySide", "3d_fullres"
PER_EPOCH = 25
"""Most iterations between two steps of the learning rate, which nnU-Net lowers by the epoch."""


def plan(widths: float) -> None:
    """Let nnU-Net plan and preprocess the labeled scans, with a share of its feature widths."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([DATASET], num_processes=1)
    api.plan_experiments([DATASET])
    path = _preprocessed() / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    architecture = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [
        max(1, round(widths * width)) for width in architecture["features_per_stage"]
    ]
    path.write_text(json.dumps(plans, indent=2))
    api.preprocess([DATASET], configurations=(CONFIGURATION,), num_processes=[1])


def train(iterations: int, seconds: Path, seed: int) -> None:
    """Train on all labeled scans, or go on; write the processor time of the steps alone."""
    trainer = _trainer(iterations, seconds, seed)
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()


def pace(iterations: int, keep_memory: bool) -> None:
    """Print the processor seconds of batches and of steps, as JSON: ``{"data": [], "step": []}``.

    Args:
        iterations: how many are measured; three before them are not.
        keep_memory: let the C library keep freed blocks, as medssl does.
    """
    if keep_memory:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    trainer = _trainer(1, Path(os.devnull))
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()
    batches, _ = trainer.get_dataloaders()
    data, step, clock = [], [], time.process_time
    for _ in range(3 + iterations):
        began = clock()
        batch = next(batches)
        data.append(clock() - began)
        began = clock()
        trainer.train_step(batch)
        step.append(clock() - began)
    parameters = sum(p.numel() for p in trainer.network.parameters())
    print(json.dumps({"data": data[3:], "step": step[3:], "parameters": parameters}))


def predict(iterations: int, images: Path, output: Path) -> None:
    """Predict with the last weights, without mirroring and with it."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = _trainer(iterations, Path(os.devnull))
    trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.set_deep_supervision_enabled(False)
    for mirrored in (False, True):
        predictor = nnUNetPredictor(
            use_mirroring=mirrored,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            [trainer.network.state_dict()],
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        folder = output / ("mirrored" if mirrored else "plain")
        folder.mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(str(images), str(folder), overwrite=False)


def _trainer(iterations: int, seconds: Path, seed: int = 0) -> Any:
    """Return nnU-Net's trainer for so many iterations, on all labeled scans and the CPU."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class SideBySide(nnUNetTrainer):
        # nnU-Net reads the names of these arguments.
        def __init__(self, plans, configuration, fold, dataset_json, device):  # type: ignore[no-untyped-def]
            super().__init__(plans, configuration, fold, dataset_json, device)
            per_epoch = max(n for n in range(1, PER_EPOCH + 1) if iterations % n == 0)
            self.num_iterations_per_epoch = per_epoch
            self.num_epochs = iterations // per_epoch
            self.num_val_iterations_per_epoch = 1  # on scans of the training: chooses nothing
            self.save_every = 1
            self.spent = json.loads(seconds.read_text()) if seconds.is_file() else 0.0

        def on_train_epoch_start(self) -> None:
            self.began = time.process_time()
            super().on_train_epoch_start()

        def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
            super().on_train_epoch_end(train_outputs)
            self.spent += time.process_time() - self.began

        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            seconds.write_text(json.dumps(self.spent))

    folder = _preprocessed()
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset = json.loads((folder / "dataset.json").read_text())
    torch.manual_seed(seed)  # the weights it starts from; patches are drawn anew in any case
    trainer = SideBySide(plans, CONFIGURATION, "all", dataset, torch.device("cpu"))
    trainer.initialize()
    return trainer


def _preprocessed() -> Path:
    return Path(os.environ["nnUNet_preprocessed"]) / NAME  # noqa: SIM112 - nnU-Net's name for it


def main() -> None:
    """Take one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("step", choices=("version", "plan", "train", "pace", "predict"))
    parser.add_argument("--keep-memory", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--widths", type=float, default=1.0)
    parser.add_argument("--iterations", type=int, default=1)
    for name in ("--seconds", "--images", "--output"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args()
    if asked.step == "version":
        print(version("nnunetv2"))
    elif asked.step == "plan":
        plan(asked.widths)
    elif asked.step == "pace":
        pace(asked.iterations, asked.keep_memory)
    elif asked.step == "train":
        train(asked.iterations, asked.seconds, asked.seed)
    else:
        predict(asked.iterations, asked.images, asked.output)


if __name__ == "__main__":
    main()

"""How long it takes to a Dice that is worth having: hippocampus, 4 labels, small network.

The recipes `hippocampus_METHOD` train with 20 of the scans as validation cases, looked at every 20
iterations (a clinic with 4 labels has no such set: this is to measure speed). Time is that of the
training steps up to the first validation with the target: on a card from `metrics.jsonl`, without
validations, on a CPU the processor's, which other work on the machine does not disturb.

    python benchmarks/time_to_dice.py --data FOLDER [--targets 0.75 0.78] [--methods bcp]
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from development import on_small_network
from harness import Row, dataset_folder, left_of, options_of, run_part
from measuring import around_steps, device_of, text_of

import medssl
from medssl.recipe.find import list_recipes
from medssl.reports.figures import read_metrics
from medssl.training.records import Records


class Reached(Exception):  # noqa: N818 - it is no error
    """The target is reached."""


def seconds_to(records: Sequence[Mapping[str, Any]], target: float) -> tuple[float, int] | None:
    """Return seconds of training and iterations to a validation Dice; None: never reached.

    Args:
        records: lines of metrics.jsonl.
        target: Dice of the validation cases.
    """
    seconds, step = 0.0, 0
    for record in records:
        if "iterations_per_second" in record:
            seconds += (record["step"] - step) / record["iterations_per_second"]
            step = record["step"]
        if record.get("validation/dice", -1.0) >= target:
            return seconds, record["step"]
    return None


def train_to(
    method: str, target: float, changes: Mapping[str, Any], folder: Path, device: str
) -> tuple[list[dict[str, Any]], dict[int, float]]:
    """Train until a Dice is reached or the recipe ends.

    Returns:
        The run's metrics, and the processor seconds of all steps up to each validation's step.
    """
    processor, at, path = 0.0, {}, folder / method
    validation = Records.validation

    def around(_: Any, __: Any, step: Callable[[], None]) -> None:
        nonlocal processor
        started = time.process_time()
        step()
        processor += time.process_time() - started

    def watched(self: Records, stage: str, state: Any, dice: float, *rest: Any, **kw: Any) -> None:
        validation(self, stage, state, dice, *rest, **kw)
        at[state.step] = processor
        if dice >= target:
            raise Reached

    Records.validation = watched  # type: ignore[method-assign]
    try:
        with around_steps(around):
            recipe, own = on_small_network(method)
            medssl.train(
                list_recipes()[recipe],
                overrides=[*own, *(f"{key}={text_of(value)}" for key, value in changes.items())],
                output=path,
                device=device,
            )
    except Reached:
        pass
    finally:
        Records.validation = validation  # type: ignore[method-assign]
    return read_metrics(path / "metrics.jsonl"), at


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield the seconds of each method to each target."""
    root, device = dataset_folder(options, "Task04_Hippocampus"), device_of(options)
    targets = [0.3] if options.quick else sorted(options.targets)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changes = {
            "data.root": root,
            "data.cache": folder / "cache",
            # Validation cases are taken from the labeled ones; four are left to learn from.
            "data.labeled": 8 if options.quick else 24,
            "data.validation": 4 if options.quick else 20,
            "training.validate_every": 20,
            "training.log_every": 10,
            "evaluation.splits": [],
        }
        for method in options.methods:
            if left_of(known, method):
                yield from left_of(known, method)
                continue
            records, processor = train_to(method, targets[-1], changes, folder, str(device))
            best = max((r["validation/dice"] for r in records if "validation/dice" in r), default=0)
            for target in targets:
                what, found = f"{method}, Dice {target:g}", seconds_to(records, target)
                if found is None:
                    yield Row(what, None, note=f"not reached; the best is {best:.3f}")
                    continue
                seconds, iterations = found
                own = processor[iterations]
                details = {"iterations": iterations, "clock_s": seconds, "processor_s": own}
                note = f"{iterations} iterations"
                if device.type == "cpu":
                    note += f"; {seconds:.1f} s on the clock"
                    seconds = own
                yield Row(what, seconds, "s", note=note, details=details)


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--targets", type=float, nargs="*", default=[0.75, 0.78])
    parser.add_argument("--methods", nargs="*", default=["supervised", "mean_teacher", "bcp"])
    run_part(parser, measure)

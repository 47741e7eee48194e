"""Train a recipe. What recipe and dataset are refused for is said before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.ranks import place
from medssl.runs.log import remembered
from medssl.workflows.training_order import Asked, TrainResult, order_of

if TYPE_CHECKING:
    from medssl.training.exchange import Exchange


def train(
    recipe: AnyPath,
    *,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    resume: bool = False,
    resume_or_start: bool = False,
    device: str = "auto",
    precision: str | None = None,
    verify_cache: bool = False,
    exchange: Exchange | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Train a recipe from its first check to the evaluation of its test cases.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or a run folder.
        overrides: ``section.key=value`` assignments.
        output: the run folder; by default ``runs/NAME``, or the next free ``runs/NAME-2``, ...
        resume: continue the run in ``output`` from its last checkpoint.
        resume_or_start: continue it if it is there, else start it. ``output`` is ``runs/NAME`` by
            default, so that the same call always means the same run.
        verify_cache: hash every image whole, whatever is known of it, before the cache is used.
        exchange: trains together with other sites, see :mod:`medssl.training.exchange`.

    Raises:
        MedSSLError: anything the user can mend, before the long work where possible.
        Stopped: SIGINT, SIGTERM or SIGUSR1 arrived; the state is saved.

    Example:
        >>> result = medssl.train("mine.yaml", overrides=["seed=5"], output="runs/again")
        >>> (result.path / "checkpoints" / "last.pt").is_file()
        True
    """
    asked = Asked(
        recipe,
        tuple(overrides),
        None if output is None else Path(output),
        resume,
        resume_or_start,
        device,
        precision,
        verify_cache,
        exchange,
    )
    rank, processes, _ = place()
    with ExitStack() as held:
        held.enter_context(remembered())
        display = display if display is not None and rank == 0 else Display(quiet=True)
        # Several processes refuse together, once they have met: one of them says why.
        order = order_of(asked, display) if processes == 1 else None
        from medssl.workflows.training_run import train_run  # loads PyTorch and MONAI: seconds

        return train_run(asked, order, display, held)

"""What a plan is asked for: the dataset opened, the hardware, whose scans they are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import psutil

from medssl.data.datasets.case import Dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.patient_guess import EACH_ITS_OWN
from medssl.data.datasets.patient_table import is_table
from medssl.data.phantoms.dataset import ensure_phantom, phantom_options
from medssl.errors import MedSSLError
from medssl.files import default_cache_root
from medssl.methods.registry import get_settings, labels_alone
from medssl.planning.draft import PlanOrder
from medssl.planning.network import DeviceKind
from medssl.planning.patients import PatientCounts, choose_patients
from medssl.progress import Display


def order_of(root: str, method: str, memory: float | None, device: str, kind: str) -> PlanOrder:
    """Settle where the training will run, and with how much memory."""
    if memory is not None and memory <= 0:
        raise MedSSLError(
            f"{memory:g} GiB is no amount of memory", where="--memory", fix="give GiB, such as 12"
        )
    phantom = {"kind": kind} if root == "phantom" else {}
    target: DeviceKind
    if memory is not None and device != "cpu":
        name, target = f"a graphics card of {memory:g} GiB", "cuda"
        return PlanOrder(root, method, target, memory * 2**30, name, phantom)
    import torch

    from medssl.device import resolve_device

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MedSSLError(
            "there is no graphics card here to ask for its memory",
            where="--device",
            fix="say how much the card has that will train: --memory 12",
        )
    found = resolve_device(device)
    if found.type == "cuda":
        properties = torch.cuda.get_device_properties(found)
        target = "cuda"
        return PlanOrder(root, method, target, properties.total_memory, properties.name, phantom)
    total = psutil.virtual_memory().total if memory is None else memory * 2**30
    return PlanOrder(root, method, "cpu", total, "a CPU", phantom)


def checked_minutes(minutes: float, order: PlanOrder, memory: float | None) -> float:
    """Refuse a budget of minutes that is none, or that cannot be turned into iterations here."""
    if not 0 < minutes < math.inf:
        raise MedSSLError(
            f"{minutes:g} minutes are no budget", where="--minutes", fix="give 60, say"
        )
    if order.device == "cuda" and memory is not None:
        raise MedSSLError(
            "a card that is not here cannot be timed",
            where="--minutes",
            fix="plan on the machine that will train, without --memory; or leave out --minutes",
        )
    return minutes


def open_planned(order: PlanOrder, display: Display) -> Dataset:
    """Read the dataset that is planned for; the phantom is made first."""
    root = Path(order.root)
    if order.phantom:
        sizes = phantom_options(order.phantom)
        total = sizes.labeled + sizes.validation + sizes.unlabeled + sizes.test
        with display.counting("making the phantom", total) as done:
            root = ensure_phantom(default_cache_root(), order.phantom, done)
    return read_dataset(root, allow_outside=order.allow_outside, patients=order.patients)


def with_patients(order: PlanOrder, data: Dataset, display: Display) -> tuple[PlanOrder, Dataset]:
    """Take what ids look like for granted, for the user to read in the recipe."""
    if data.guess is None:
        return order, data
    display.say(f"warning: {data.guess.sentence}; {data.guess.fix}")
    reason = f"a guess: {data.guess.sentence}; '{EACH_ITS_OWN}': each scan is of another patient"
    order = replace(order, patients=data.guess.pattern, patients_reason=reason)
    return order, open_planned(order, display)


def written_for(order: PlanOrder, output: Path) -> PlanOrder:
    """Return the order with paths that mean in the recipe's folder what they mean in this one."""
    if output.absolute().parent == Path.cwd():
        return order
    patients = order.patients
    if patients is not None and is_table(patients):
        patients = str(Path(patients).expanduser().absolute())
    root = order.root if order.phantom else str(Path(order.root).expanduser().absolute())
    return replace(order, root=root, patients=patients)


def patient_counts(dataset: Dataset, order: PlanOrder, labeled: int | None) -> PatientCounts:
    """Divide the patients of a dataset.

    Raises:
        MedSSLError: no patient would be labeled, or the method needs unlabeled scans, too.
    """
    if labeled is not None and labeled < 1:
        raise MedSSLError(
            f"{labeled} labeled patients cannot be trained on",
            where="--labeled",
            fix="give 1 or more, or leave it out for all",
        )
    patients = len({c.patient for c in dataset.training})
    uses_unlabeled = get_settings(order.method).uses_unlabeled
    if uses_unlabeled and labeled is None and not dataset.unlabeled:
        raise MedSSLError(
            f"{order.method} learns from unlabeled scans, but every scan has a label",
            where=order.root,
            fix="use only some of the labels, such as --labeled 8, or --method " + labels_alone(),
        )
    return choose_patients(
        patients, labeled, unlabeled=len(dataset.unlabeled), uses_unlabeled=uses_unlabeled
    )

"""The contract: what every method must do, check by check; and whether one method does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from medssl.errors import MedSSLError, did_you_mean
from medssl.methods.base import Method
from medssl.methods.registry import get_method
from medssl.methods.settings import MethodSettings
from medssl.testing import (
    batches,
    gradients,
    labels,
    precision,
    processes,
    regions,
    resume,
    scales,
    teacher,
    travel,
    waits,
)
from medssl.testing.contract import ContractError, NotApplicable
from medssl.testing.subject import Subject


@dataclass(frozen=True)
class Check:
    """One thing that every method must do.

    Attributes:
        run: takes a :class:`~medssl.testing.subject.Subject` and one of ``variants`` as keywords;
            raises :class:`ContractError` or :class:`NotApplicable`.
        dims: with how many spatial dimensions it is worth running.
        variants: keywords of ``run``, one after the other; by default it is run once without.
            ``classes`` is given to the subject instead.
    """

    run: Callable[..., None]
    dims: Sequence[int] = (2, 3)
    variants: Sequence[Mapping[str, Any]] = ({},)


CHECKS: dict[str, Check] = {
    "description": Check(batches.check_description, dims=(2,)),
    "stages": Check(batches.check_stages_spend_the_budget, dims=(2,)),
    "gradients": Check(
        gradients.check_training_moves_what_is_trainable, variants=({"classes": 2}, {"classes": 5})
    ),
    "unlabeled_gradient": Check(gradients.check_unlabeled_images_move_the_student),
    "ema": Check(teacher.check_the_teacher_is_the_closed_form_average),
    "hidden_labels": Check(labels.check_hidden_labels_are_not_read),
    "ignored_voxels": Check(labels.check_ignored_voxels_do_not_count),
    "blank_patches": Check(labels.check_patches_without_annotation_teach_nothing),
    "annotated_voxels": Check(labels.check_which_voxels_are_annotated_decides),
    "labels_travel": Check(travel.check_labels_travel_with_voxels),
    "precision": Check(
        precision.check_losses_under_autocast,
        variants=({"dtype": torch.bfloat16}, {"dtype": torch.float16}),
    ),
    "batch_sizes": Check(
        batches.check_batches_of_different_size,
        variants=tuple({"labeled": n, "unlabeled": m} for n, m in ((3, 5), (5, 2), (2, 1))),
    ),
    "equal_batches": Check(batches.check_equal_even_batches_are_accepted),
    "classes": Check(
        batches.check_any_number_of_classes,
        dims=(2,),
        variants=tuple({"classes": n} for n in (2, 3, 8, 15)),
    ),
    "resume": Check(resume.check_a_resumed_stage_is_bit_equal),
    "determined": Check(resume.check_a_step_is_determined, dims=(2,)),
    "processes": Check(processes.check_two_processes_are_one, dims=(2,)),
    "scales": Check(scales.check_coarser_scales_are_trained, dims=(2,)),
    "regions": Check(regions.check_losses_of_labels_are_of_regions, dims=(2,)),
    "host_waits": Check(waits.check_no_step_makes_the_host_wait, dims=(2,)),
}
"""The contract of every method, by the names of its checks."""


def check_method(
    method: str | type[Method],
    *,
    settings: Mapping[str, Any] | None = None,
    dims: Sequence[int] = (2, 3),
    classes: Sequence[int] | None = None,
    only: Sequence[str] | None = None,
) -> list[str]:
    """Hold a method to the contract that every method of medssl keeps; needs no pytest.

    Small networks and random patches, some seconds to a minute per preset on a CPU. Whether the
    method is any good (better than labels alone) is not among what is checked.

    Args:
        method: a registered name, or the class, whose ``Settings`` are used.
        settings: of the method; by default every preset and every variant of it, one by one.
        dims: with how many spatial dimensions.
        classes: numbers of classes, background included; by default each check's own, 2 to 15.
        only: names of checks; by default all of :data:`CHECKS`.

    Returns:
        The names of the checks that ran; one that has nothing to look at is not among them.

    Raises:
        ContractError: the method breaks the contract; says in which check and how.
        MedSSLError: no method, or no check, has this name.

    Example:
        >>> from medssl.testing import check_method
        >>> check_method("supervised", dims=[2], only=["ema", "resume"])
        ['resume']
    """
    name = method if isinstance(method, str) else method.__name__
    cls = get_method(method) if isinstance(method, str) else method
    for each in only or ():
        if each not in CHECKS:
            raise MedSSLError(f"unknown check {each!r}", fix=did_you_mean(each, list(CHECKS)))
    ran: dict[str, None] = {}
    for chosen in [settings] if settings is not None else all_settings(cls.Settings):
        subject = Subject(name, cls, chosen)
        for check in only or CHECKS:
            for dim in [d for d in CHECKS[check].dims if d in dims]:
                for variant in variants_of(CHECKS[check], classes):
                    try:
                        run_check(check, replace(subject, dims=dim), variant)
                    except NotApplicable:
                        continue
                    ran[check] = None
    return list(ran)


def all_settings(settings: type[MethodSettings]) -> list[dict[str, str]]:
    """Return what a contract is held to: what the settings say, or else every preset.

    Of the official preset every variant, where it has variants.
    """
    if settings.contract:
        return [dict(given) for given in settings.contract]
    out = []
    for preset in sorted(settings.words("preset")) or [""]:
        variants = sorted(settings.words("variant") - {"off"}) if preset == "official" else []
        for variant in variants or [""]:
            given = {"preset": preset, "variant": variant}
            out.append({key: value for key, value in given.items() if value})
    return out


def variants_of(check: Check, classes: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return the variants of a check, for these numbers of classes instead of its own."""
    if classes is None:
        return [dict(variant) for variant in check.variants]
    own = [{k: v for k, v in variant.items() if k != "classes"} for variant in check.variants]
    unlike = [v for i, v in enumerate(own) if v not in own[:i]]
    return [{**variant, "classes": n} for variant in unlike for n in classes]


def run_check(name: str, subject: Subject, variant: Mapping[str, Any]) -> None:
    """Run one check on one subject, and say of what it failed.

    Args:
        name: of the check, among :data:`CHECKS`.
        subject: the method.
        variant: one of the check's; ``classes`` is that of the subject.

    Raises:
        ContractError: the method breaks the contract, or raised an error of its own.
        NotApplicable: there is nothing to check.
    """
    asked = dict(variant)
    subject = replace(subject, classes=asked.pop("classes", subject.classes))
    with _named(f"{subject}: check {name!r}{_words(asked)} failed: "):
        CHECKS[name].run(subject, **asked)


@contextmanager
def _named(start: str) -> Iterator[None]:
    try:
        yield
    except ContractError as error:
        raise ContractError(f"{start}{error}") from error
    except NotApplicable:
        raise
    except Exception as error:
        raise ContractError(
            f"{start}the method raised {type(error).__name__}: {error}; expected: no error"
        ) from error


def _words(variant: Mapping[str, Any]) -> str:
    said = ", ".join(f"{key} {value}" for key, value in variant.items())
    return f" ({said})" if said else ""

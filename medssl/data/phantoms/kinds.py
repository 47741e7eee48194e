"""The kinds of phantom there are, and the options a user may give.

A new kind is one function that draws a :class:`~medssl.data.phantoms.parts.Scan` and one entry of
:data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from medssl.data.images.geometry import Unit
from medssl.data.phantoms import (
    cbct as phantom_cbct,
)
from medssl.data.phantoms import (
    ct as phantom_ct,
)
from medssl.data.phantoms import (
    mr as phantom_mr,
)
from medssl.data.phantoms import (
    oct as phantom_oct,
)
from medssl.data.phantoms.parts import Scan
from medssl.errors import MedSSLError, did_you_mean

Draw = Callable[[np.random.Generator, tuple[int, int, int]], Scan]


@dataclass(frozen=True)
class PhantomKind:
    """A kind of phantom: what dataset.json says of it, and how one scan is drawn.

    Attributes:
        modality: name of the image channel.
        choices: by the name of a choice of labels, label value to name, background 0 included. The
            first choice is the default.
        shape: voxels unless the user asks for others.
        min_shape: below this the smallest structures lose their voxels.
        draw: draws one scan from the case's own generator.
        spatial_unit: ``mm`` or ``um``, also written into the image headers.
        in_patient: the affine is that of a patient's space (NIfTI form code 1, both forms) and not
            a nominal one (code 2, sform alone).
    """

    modality: str
    choices: dict[str, dict[int, str]]
    shape: tuple[int, int, int]
    min_shape: tuple[int, int, int]
    draw: Draw
    spatial_unit: Unit = "mm"
    in_patient: bool = True


KINDS: dict[str, PhantomKind] = {
    "mr": PhantomKind(
        modality="MRI",
        choices={"all": phantom_mr.LABELS},
        shape=phantom_mr.SHAPE,
        min_shape=phantom_mr.MIN_SHAPE,
        draw=phantom_mr.make_mr,
    ),
    "ct": PhantomKind(
        modality="CT",
        choices={
            "organs": phantom_ct.LABELS,
            "liver": phantom_ct.LIVER_LABELS,
            "pancreas": phantom_ct.PANCREAS_LABELS,
        },
        shape=phantom_ct.SHAPE,
        min_shape=phantom_ct.MIN_SHAPE,
        draw=phantom_ct.make_ct,
    ),
    "cbct": PhantomKind(
        modality="CBCT",
        choices={
            "fdi": phantom_cbct.LABELS,
            "binary": phantom_cbct.BINARY_LABELS,
            "canal": phantom_cbct.CANAL_LABELS,
            "sinus": phantom_cbct.SINUS_LABELS,
            "jaws": phantom_cbct.JAW_LABELS,
        },
        shape=phantom_cbct.SHAPE,
        min_shape=phantom_cbct.MIN_SHAPE,
        draw=phantom_cbct.make_cbct,
    ),
    "oct": PhantomKind(
        modality="OCT",
        choices={"fluid": phantom_oct.FLUID_LABELS, "layers": phantom_oct.LAYER_LABELS},
        shape=phantom_oct.SHAPE,
        min_shape=phantom_oct.MIN_SHAPE,
        draw=phantom_oct.make_oct,
        spatial_unit="um",
        in_patient=False,
    ),
}


@dataclass(frozen=True)
class PhantomSettings:
    """What a user may choose; also the keys allowed under ``data.phantom`` of a recipe.

    Attributes:
        kind: see :data:`KINDS`.
        labeled: training cases with a label file.
        unlabeled: cases in ``imagesUn`` for which no label file exists.
        test: cases in ``imagesTs``, their reference apart in ``labelsTs``.
        validation: more cases with a label file, listed under ``validation`` of phantom.json.
        seed: another seed, other patients.
        shape: voxels per axis; none: the kind's own.
        labels: what is labeled, where a kind offers a choice; none: the kind's first. CT:
            ``organs``, ``liver`` with tumors or ``pancreas``; CBCT: ``fdi``, ``binary``, ``canal``
            or ``jaws``; OCT: ``fluid`` or ``layers``. The images are the same.
    """

    kind: str = "mr"
    labeled: int = 40
    unlabeled: int = 8
    test: int = 4
    validation: int = 0
    seed: int = 0
    shape: tuple[int, int, int] | None = None
    labels: str | None = None


def phantom_options(options: Mapping[str, Any]) -> PhantomSettings:
    """Check options and fill in defaults, the kind's shape included.

    Raises:
        MedSSLError: an unknown option, kind or choice of labels (with the nearest known one), a
            count that is not a whole number of 0 or more, no labeled case, or a shape too small to
            hold the anatomy.
    """
    known = [f.name for f in fields(PhantomSettings)]
    for name in options:
        if name not in known:
            raise MedSSLError(
                f"the phantom has no option {name!r}", fix=did_you_mean(str(name), known)
            )
    chosen = PhantomSettings(**options)
    if not isinstance(chosen.kind, str) or chosen.kind not in KINDS:
        raise MedSSLError(
            f"no phantom of kind {chosen.kind!r}", fix=did_you_mean(str(chosen.kind), list(KINDS))
        )
    for name in ("labeled", "unlabeled", "test", "validation", "seed"):
        value, least = getattr(chosen, name), int(name == "labeled")
        if not _is_whole(value) or value < least:
            raise MedSSLError(
                f"phantom option {name!r} is {value!r}",
                fix=f"give a whole number of {least} or more",
            )
    kind = KINDS[chosen.kind]
    labels = next(iter(kind.choices)) if chosen.labels is None else chosen.labels
    if not isinstance(labels, str) or labels not in kind.choices:
        raise MedSSLError(
            f"the {chosen.kind} phantom has no labels {labels!r}",
            fix=did_you_mean(str(labels), list(kind.choices)),
        )
    shape = kind.shape if chosen.shape is None else chosen.shape
    return replace(chosen, labels=labels, shape=_checked_shape(shape, kind.min_shape))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_shape(shape: object, least: tuple[int, int, int]) -> tuple[int, int, int]:
    if (
        not isinstance(shape, tuple | list)
        or len(shape) != 3
        or not all(_is_whole(v) and v >= low for v, low in zip(shape, least, strict=True))
    ):
        raise MedSSLError(
            f"phantom option 'shape' is {shape!r}",
            fix=f"give three whole numbers of at least {least} voxels",
        )
    return (int(shape[0]), int(shape[1]), int(shape[2]))

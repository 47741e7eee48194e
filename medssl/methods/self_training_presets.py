"""The parts of ``self_training`` by name, and which of them each paper puts together: its presets.

What a row leaves out is as in preset ``mixed``, which are the defaults of the settings.

Presets (``medssl methods self_training`` shows their values):
  * ``mixed`` (default): an averaged teacher, threshold 0.7, weak views with boxes of each other,
    then pasted into labeled patches and these into them. On hippocampus with 4 labels one stage of
    it was as good as BCP's two (0.813 and 0.811), and +0.014 [0.007, 0.022] above labels alone;
  * ``fixmatch``: method ``fixmatch`` without mixing, in both variants;
  * ``uda``: sharpened probabilities; ``unimatch``: two strong views, each with boxes of its own;
  * ``dual_teacher``: AD-MT, two averages that follow the student in turns, each with its own view;
  * ``hssda``: two levels per class by 2-means, blocks of a patch shuffled;
  * ``consistent_teacher``: a threshold per class from two normal distributions;
  * ``cw_bass``: weight by confidence and boundary; ``reviewer``: a second, slower average;
  * ``elr``: early-learning regularization; ``soft_teacher``: background counts as it is probable;
  * ``fst``: labels are those of the average as it will be after three virtual steps (experimental:
    a step costs four times as much);
  * ``shrinkmatch``: soft targets, and unsure voxels learn the likeliest class against those that it
    is not confused with; of five classes or more;
  * ``saa``: strong views; scans that have become easy are shown halves of two of them;
  * ``open_set``: ``mixed`` with scans weighed by how far they are trusted;
  * ``fedlabel``: at a site of a federation, an average here or the last common model labels each
    voxel, whichever is surer, and both where they agree (Cho et al., ICCV 2023).

Differences from the papers, in all presets of variant ``corrected``:
  * losses, teacher and ramp are those of method ``fixmatch``, preset ``corrected``, and for its
    reasons: Dice + CE, an averaged teacher in eval mode, threshold 0.7;
  * histograms of confidence take the place of stores of scores and of averages of thresholds: the
    published averages start at 1 and forget in thousands of iterations;
  * UniMatch: an averaged teacher labels, once for all views; boxes come from the next patch, never
    the same one; feature dropout is off, and with ``feature_drop`` each level of the encoder sees
    what is left of the one before;
  * AD-MT: both teachers begin as the student, label in eval mode and count their own updates; the
    student's own map, which settles conflicts, comes from a pass in eval mode and is mixed as the
    labels are; the mean of both teachers predicts;
  * FST: the average that was moved ahead is put back, as the paper says and its code does not, and
    with it BatchNorm's statistics; virtual steps are plain descent, the gradient's norm cut at 1;
  * ShrinkMatch: no head of its own; the voxels are those of structures that are unsure, and the
    batch's share of sure ones takes the place of an average of it;
  * SAA: of scans in place of images, so that the mean loss of a scan forgets slower (0.9 a patch);
    from a fifth of the iterations on, at each of them;
  * FedLabel: voxels for images, the average of the student for the local model; its loss between
    both models' outputs where they agree is left out;
  * Consistent-Teacher: the valley between two distributions, since its peak drops half of what is
    sure; CW-BASS: a fixed threshold, since its formula lets every voxel through.
``variant: official`` is there where a published code's values fit voxels: ``fixmatch`` and, of the
rule alone, ``consistent_teacher``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from medssl.methods.settings import Tables

Shown = Literal["mixed", "fixmatch", "uda", "unimatch", "hssda", "elr", "saa"]
Counted = Literal["consistent_teacher", "cw_bass", "soft_teacher", "shrinkmatch", "open_set"]
Labeled = Literal["dual_teacher", "reviewer", "fst", "fedlabel"]
PresetName = Literal[Shown, Counted, Labeled]

Teacher = Literal["ema", "student", "slow", "dual", "future", "global"]
Rule = Literal["fixed", "adaptive", "softmatch", "gmm", "two_level", "gate", "agreement", "none"]
Factor = Literal["confidence", "boundary", "soft_background", "case"]
Kind = Literal["cutmix", "shuffle", "cube", "paste"]


def _listed(value: Any) -> Any:
    """Read a single word as a list of it, and ``none`` as an empty one."""
    if value == "none":
        return ()
    return (value,) if isinstance(value, str) and value != "auto" else value


Factors = Annotated[tuple[Factor, ...], BeforeValidator(_listed)]
Kinds = Annotated[tuple[Kind, ...], BeforeValidator(_listed)]

FIXMATCH: Mapping[str, Any] = {
    "threshold": 0.95,
    "loss": "ce",
    "ramp_fraction": 0.0,
    "ema_decay": 0.999,
    "ema_warmup": False,
    "ema_buffers": "copy",
}
"""Values of FixMatch's paper that have the same names in method ``fixmatch``."""

STRONG: Mapping[str, Any] = {"view": "strong", "mixing": ()}
CUTMIX: Mapping[str, Any] = {"mixing": ("cutmix",)}
SHUFFLED: Mapping[str, Any] = {"view": "strong", "mixing": ("shuffle",)}

PRESETS: Tables = {
    "fixmatch": STRONG,
    "fixmatch/official": {"teacher": "student", "teacher_mode": "train", **FIXMATCH},
    "uda": {**STRONG, "threshold": 0.8, "target": "sharpened", "temperature": 0.4},
    "unimatch": {**CUTMIX, "view": "strong", "views": 2},
    "dual_teacher": {**CUTMIX, "teacher": "dual", "arbiter": "student", "view": "by_turn"},
    "hssda": {**SHUFFLED, "selection": "two_level", "weight": ("confidence",)},
    "consistent_teacher": {**STRONG, "selection": "gmm"},
    "consistent_teacher/official": {"gmm_at": "peak"},
    "cw_bass": {"weight": ("confidence", "boundary"), "mixing": ()},
    "reviewer": {**CUTMIX, "teacher": "slow"},
    "elr": {**CUTMIX, "elr_weight": 1.0},
    "soft_teacher": {**CUTMIX, "threshold": 0.9, "weight": ("soft_background",)},
    "fst": {**CUTMIX, "teacher": "future"},
    "shrinkmatch": {**STRONG, "target": "soft", "shrink_weight": 1.0},
    "saa": {**STRONG, "adapt": "otsu"},
    "open_set": {"weight": ("case",)},
    "fedlabel": {"teacher": "global"},
}

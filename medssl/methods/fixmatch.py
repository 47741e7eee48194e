"""FixMatch, voxelwise: learn the strong view of a patch from confident labels of the weak view.

Paper: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence"
(NeurIPS 2020, arXiv 2001.07685). It classifies whole images; here every voxel is one.

Algorithm, per iteration:
  1. probabilities q of the weakly augmented unlabeled patches, no gradient;
  2. pseudo-label = arg-max q; a voxel counts where max q >= threshold;
  3. the student predicts labeled patches and the strong view of the unlabeled ones (same geometry,
     strong noise, gamma, contrast, brightness, blur) in one pass; the views are mixed with each
     other, and their pseudo-labels alike;
  4. loss = supervised(labeled) + w(t) * loss of the strong view on the counted voxels;
  5. teacher <- d teacher + (1 - d) student.

Presets. ``official`` is the paper: the student itself labels the weak view, in train mode;
threshold 0.95; cross-entropy, summed over the counted voxels and divided by **all** (eq. 4), so
that the weight rises by itself as confidence does; weight 1, no ramp; the average of the weights
(0.999) predicts. It deviates where images became patches: no Cutout and no geometric strong
augmentation, which would have to be undone voxel by voxel; the weak view has a pass of its own, not
interleaved with the others. ``corrected`` (default) differs:
  * the averaged teacher labels, in eval mode: steadier labels, that do not depend on dropout or on
    the patches beside;
  * Dice + CE as in ``supervised`` on both parts: the confident voxels are nearly all background at
    first, and CE alone teaches that there is nothing else;
  * threshold 0.7: what is undecided in a segmentation is its boundary. After 300 iterations on 4
    hippocampi, 0.95 kept a third of the predicted foreground, and the strong view agreed with all
    of it: nothing to learn. 0.7 kept 78 % (81 % of it right; of all, 72 %), with 1 % disagreement;
  * ``mixing: cutmix``, boxes of other patches: where only intensities differ, the strong view soon
    agrees with nearly all that it is told, and there is nothing left to learn;
  * a ramp over 40 % of the iterations, because the first confident labels are background;
  * EMA decay 0.99 with warm-up, which suits a few thousand iterations.
``normalize: kept`` divides by the counted voxels instead; ``all`` scales Dice by the counted share
too, so that both parts keep their proportion.

The step is that of ``self_training``, which has the same as preset ``fixmatch``, bit for bit (there
``corrected`` does not mix); here are the names by which recipes and runs know it.
"""

from __future__ import annotations

from functools import cached_property

from medssl.methods.fixmatch_settings import FixMatchSettings
from medssl.methods.self_training import SelfTraining
from medssl.methods.self_training_slots import Slots


class FixMatch(SelfTraining):
    """Weak-to-strong consistency on confident voxels."""

    Settings = FixMatchSettings
    settings: FixMatchSettings

    @cached_property
    def slots(self) -> Slots:
        """Its settings, as ``self_training`` says them."""
        return self.settings.slots

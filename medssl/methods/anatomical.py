"""Anatomically-aware uncertainty: an autoencoder of label masks tells the student whom to believe.

Paper: Adiga V, Dolz, Lombaert, "Anatomically-aware Uncertainty for Semi-supervised Image
Segmentation" (Medical Image Analysis 2024, arXiv 2310.16099; MICCAI 2022, arXiv 2203.05682).

Algorithm. ``autoencoder``: corrupt label masks and train an autoencoder to repair them; no image is
read. ``guided``: a mean teacher; per iteration
  1. student logits on all patches; teacher logits on noisy ones: the target, with probabilities p;
  2. the autoencoder, now frozen, maps the teacher's segmentation to a plausible one, q;
  3. U = deviation of q from p, weight w = exp(-gamma U): one inference instead of UA-MT's eight;
  4. loss = supervised(labeled) + w(t) * squared softmax difference of student and teacher, by w;
  5. teacher <- average of the student's weights.

Presets. ``official`` follows the published code; its network needs ``grid``, the patch / 16.
``corrected`` (default) differs from it as follows:
  * one code per position instead of one fully connected code per patch: any patch, and no 64 to
    127 million parameters that would have to learn every place a crop may show; three levels
    instead of four, which learn in fewer iterations;
  * skip connections (``skips``). Trained on 4 hippocampus masks for 250 iterations, an autoencoder
    without them cannot even copy: clean masks of other patients come back with a Dice of 0.76,
    corrupted ones of 0.87 with 0.75. With them it is 0.97, and 0.87 before and after.
    A teacher's errors are repaired by neither (0.806 before; 0.723 and 0.805 after). Without skips
    they are ranked better over all voxels (AUROC 0.959 against 0.950; 0.963 after 1000
    iterations, when clean masks come back with 0.83), but worse within the predicted structures
    (0.746 against 0.788);
  * U adds up the two distances of the teacher's hard segmentation, from q and from p (``apart``).
    In (q - p)^2 they cancel: where q is as blurred as p is unsure, the voxel counts as certain. U
    found the errors of a trained teacher worse than its lack of confidence alone (area under
    the ROC curve 0.88 against 0.945); added up, slightly better (0.950);
  * one-hot masks, softmax output trained by Dice + CE (official: the class index as one gray
    value, independent sigmoids, Dice + squared error): no order among the classes, and p and q
    are comparable;
  * corruption coherent in 3D, the same for every class, and stronger: Dice 0.82 to 0.87 with the
    clean mask on hippocampus (official: slice by slice, mild, with index order and wrap-around);
  * no latent noise in stage 2: U is not random; PyTorch's initialization;
  * one weight per voxel, U summed over the classes, as in the paper's formula (official: one per
    class), and the weighted mean (official: half of it), so that ``control: uniform`` is exactly
    ``mean_teacher`` with ``mixing: none``;
  * teacher and autoencoder on unlabeled patches only, the autoencoder not at all while the
    consistency counts less than 3 % of its final weight; then the weight is 1;
  * a quarter of the iterations for the autoencoder (official: 50 000 of 58 000), as many masks per
    iteration as labeled patches (official: 4), no noise on them, and a learning rate that ends with
    the stage (official: its cosine is 2 000 iterations longer);
  * the teacher starts as a copy, in eval mode, buffers averaged, smooth ramp over 40 % of the stage
    to a weight of 5 (official: 0.1), supervised loss not halved, the teacher predicts: all as in
    ``mean_teacher``, whose CutMix is off here.
Not here: the code keeps the autoencoder and the student that do best on labeled validation cases;
the stages here end with their last weights, and ``best`` is the student's.

At each validation, if there are validation cases, ``autoencoder/*_before`` and ``*_after`` say
what it does to masks it has not seen, and ``certainty/auroc`` beside ``certainty/auroc_identity``
whether it helps to find the teacher's errors: the claim rests on that.

Controls: ``uniform`` sets w = 1, ``identity`` takes q = the teacher's own hard segmentation, so
that U is its lack of confidence alone. What ``none`` gains over both is owed to the autoencoder.
"""

from __future__ import annotations

from torch import Tensor, nn

from medssl.methods.anatomical_settings import AnatomicalSettings
from medssl.methods.base import Batch, NetworkBuilder, Progress, StepOutput
from medssl.methods.mean_teacher import input_noise
from medssl.methods.settings import Stage
from medssl.methods.weighted_teacher import WeightedTeacher
from medssl.networks.mask_autoencoder import MaskAutoencoder
from medssl.ops.certainty import certainty, deviation, probabilities
from medssl.ops.corruption import corrupt_masks
from medssl.ops.losses import IGNORE_INDEX, dice_and_ce, dice_loss, one_hot
from medssl.ops.mask_repair import encode_mask, reconstruction_terms, repairs
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.variants import FOREGROUND

DIAGNOSIS = Progress("diagnosis", 0, 1)
"""Where the corruption of a diagnosed mask is drawn: the same at every validation."""


class Anatomical(WeightedTeacher):
    """Mean teacher weighted by the deviation from the nearest plausible segmentation."""

    Settings = AnatomicalSettings
    settings: AnatomicalSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make student, teacher and autoencoder."""
        super().make_networks(build)
        settings = self.settings
        self.autoencoder: nn.Module = MaskAutoencoder(
            spatial_dims=self.spatial_dims,
            in_channels=1 if settings.dae_input == "index" else self.num_classes,
            num_classes=self.num_classes,
            filters=settings.filters,
            bottleneck=settings.bottleneck,
            embedding=settings.embedding,
            grid=settings.grid if isinstance(settings.grid, list) else None,
            levels=settings.levels,
            skips=settings.skips,
            init=settings.init,
        )
        self.guided = False

    # ------------------------------------------------------------------ stages

    def start_stage(self, stage: str) -> None:
        """Freeze the autoencoder once it guides."""
        self.guided = stage == "guided"
        self.autoencoder.requires_grad_(not self.guided)
        if self.guided:
            for parameter in self.autoencoder.parameters():
                parameter.grad = None
        self.train(self.training)

    def train(self, mode: bool = True) -> Anatomical:
        """Set the mode of all networks; an autoencoder that guides stays in eval mode."""
        super().train(mode)
        if self.guided:
            self.autoencoder.eval()
        return self

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the autoencoder, then the student."""
        network = self.autoencoder if stage == "autoencoder" else self.student
        return {"student" if network is self.student else "autoencoder": [*network.parameters()]}

    def learning_rate_position(self, stage: Stage, iteration: int) -> tuple[int, int]:
        """Read the schedule as if the stage were ``schedule_tail`` iterations longer."""
        return iteration, stage.iterations + self.settings.schedule_tail

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one iteration of either stage."""
        if progress.stage == "autoencoder":
            assert batch.masks is not None
            return self._autoencoder_step(batch.masks, progress)
        return super().training_step(batch, progress)

    def _autoencoder_step(self, masks: Tensor, progress: Progress) -> StepOutput:
        """Repair corrupted masks ``(B, *spatial)``; voxels of label 255 do not count."""
        settings, valid = self.settings, (masks != IGNORE_INDEX).float()
        clean = masks.masked_fill(masks == IGNORE_INDEX, 0)
        corrupted = self.corrupt(clean, progress)
        encoded = encode_mask(corrupted, self.num_classes, settings.dae_input)
        if settings.mask_noise:
            encoded = encoded + input_noise(encoded, settings.mask_noise)
        logits = self.autoencoder(encoded, latent_noise=settings.latent_noise_training)
        target = one_hot(clean, self.num_classes)
        if settings.output == "softmax":
            dice, error = dice_and_ce(logits, masks)
        else:
            error, dice = reconstruction_terms(probabilities(logits, "sigmoid"), target, valid)
        loss = 0.5 * (error + dice)
        given = dice_loss(one_hot(corrupted, self.num_classes), target, valid, variant=FOREGROUND)
        return StepOutput(
            loss,
            {
                "loss/reconstruction": loss.detach(),
                "autoencoder/dice": 1 - dice.detach(),
                "autoencoder/dice_of_input": 1 - given,
            },
        )

    def corrupt(self, masks: Tensor, progress: Progress) -> Tensor:
        """Return corrupted copies of ``(B, *spatial)`` class indices."""
        style, strength = self.settings.corruption, self.settings.corruption_strength
        return corrupt_masks(masks, progress.rng("corruption"), style=style, strength=strength)

    def weigh(
        self, image: Tensor, teacher_logits: Tensor, progress: Progress
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return the certainty ``(B, C or 1, *spatial)``, or None for 1 everywhere."""
        s, control = self.settings, self.settings.control
        share = self.consistency_weight(progress) / (s.consistency_weight or 1.0)
        if control == "uniform" or (control == "none" and share < s.skip_below):
            return None, {}
        u = self.uncertainty(image, teacher_logits, progress)
        weight = certainty(u, kind=s.weight, gamma=s.gamma, threshold=s.threshold)
        return weight, {"certainty/weight": weight.mean(), "certainty/deviation": u.mean()}

    def uncertainty(self, image: Tensor, teacher_logits: Tensor, progress: Progress) -> Tensor:
        """Return the deviation from the plausible segmentation, ``(B, C or 1, *spatial)``."""
        probs = probabilities(teacher_logits)
        return deviation(
            self.plausible(probs),
            probs,
            kind=self.settings.uncertainty,
            reduction=self.settings.reduction,
        )

    def plausible(self, probs: Tensor) -> Tensor:
        """Return the plausible segmentation ``(B, C, *spatial)`` nearest to the teacher's."""
        settings = self.settings
        if settings.control == "identity":
            return one_hot(hard_labels(probs), self.num_classes)
        if settings.dae_input == "soft":
            encoded = probs
        else:
            encoded = encode_mask(hard_labels(probs), self.num_classes, settings.dae_input)
        logits = self.autoencoder(encoded, latent_noise=settings.latent_noise)
        return probabilities(logits, settings.output)

    def diagnose(self, image: Tensor, label: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Return what the autoencoder does to masks, and how well U finds the teacher's errors.

        In both stages: Dice of repaired clean masks, and of corrupted ones before and after. In
        stage 2 also of the teacher's segmentation before and after, and the areas under the ROC
        curve, of which ``certainty/auroc`` has to exceed ``certainty/auroc_identity`` for the
        autoencoder to be of any use.
        """
        out = {} if self.settings.autoencoder_fraction == 0 else self._repairs(image, label)
        return out | super().diagnose(image, label, progress) if self.guided else out

    def _repairs(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return Dice of masks before and after the autoencoder."""
        truth = label.masked_fill(label == IGNORE_INDEX, 0)
        masks = {"clean": truth, "corrupted": self.corrupt(truth, DIAGNOSIS)}
        if self.guided:
            masks["teacher"] = hard_labels(self.teacher(image))

        def repair(mask: Tensor) -> Tensor:
            encoded = encode_mask(mask, self.num_classes, self.settings.dae_input)
            return hard_labels(probabilities(self.autoencoder(encoded), self.settings.output))

        out = repairs(masks, label, self.num_classes, repair)
        del out["autoencoder/clean_before"]  # it is 1
        return out

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, in stage 2."""
        if progress.stage == "guided":
            super().after_step(progress)

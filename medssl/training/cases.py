"""Which case of a run is used as what, decided and checked before a voxel is read.

A dataset that does not suit its recipe is refused before PyTorch is loaded, which takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.orientations import io_orientation

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.datasets.split import Splits, make_splits
from medssl.data.images.volume import read_header
from medssl.data.opened import known_files, open_dataset
from medssl.data.patches.sides import class_pairs, side_axis
from medssl.errors import MedSSLError, located
from medssl.progress import Display
from medssl.recipe.contradictions import check_decision
from medssl.recipe.load import LoadedRecipe
from medssl.settings.spec import DataSpec
from medssl.settings.training import TrainingSettings

if TYPE_CHECKING:
    from medssl.data.patches.augment import Augmenter


@dataclass(frozen=True)
class CasePlan:
    """Which case is used as what; no voxel has been read.

    Attributes:
        dataset: as read.
        splits: the cases by role.
        augmenter: of patches; it exchanges left and right labels when it mirrors.
        files: what is known of the image files.
    """

    dataset: Dataset
    splits: Splits
    augmenter: Augmenter
    files: KnownFiles

    @property
    def sizes(self) -> dict[str, int]:
        """What the networks must fit: ``num_classes``, background included, and ``channels``."""
        labels, modality = self.dataset.labels, self.dataset.modality
        return {"num_classes": labels.num_classes, "channels": len(modality)}

    @property
    def cached(self) -> tuple[Case, ...]:
        """The cases that training takes from the cache; test cases are read from their files."""
        return (*self.splits.labeled, *self.splits.unlabeled, *self.splits.validation)


def plan_cases(
    loaded: LoadedRecipe,
    display: Display,
    *,
    verify_cache: bool = False,
    uses_unlabeled: bool | None = None,
    needs_labels: bool = True,
) -> CasePlan:
    """Read the dataset, decide which case is used as what, and check that the recipe suits it.

    Args:
        verify_cache: believe nothing that is known of image files.
        uses_unlabeled: whether unlabeled scans are used; None: as the recipe's method does.
        needs_labels: whether there must be labeled cases to train on.

    Raises:
        MedSSLError: a dataset that cannot be read or divided as the recipe says, or one that its
            method, its data spec or mirrored prediction do not suit.
    """
    recipe = loaded.recipe
    with located(loaded.source):
        dataset = open_dataset(recipe.data, recipe.spec, display)
        if uses_unlabeled is None:
            uses_unlabeled = loaded.settings.uses_unlabeled
        splits = make_splits(
            dataset, recipe.data, uses_unlabeled=uses_unlabeled, needs_labels=needs_labels
        )
        for note in splits.notes:
            display.say(f"note: {note}")
        _check_native_spacing(loaded, splits)
        check_decision(recipe.inference, dataset.labels, where=dataset.root / "dataset.json")
        if recipe.training.region_loss and not dataset.labels.regions:
            raise MedSSLError(
                "training.region_loss needs regions, and the dataset states none",
                where=dataset.root / "dataset.json",
                fix='add "regions": {"NAME": [1, 2], ...} there, or data.regions to the recipe',
            )
        augmenter = _augmenter(recipe.training, recipe.spec, dataset, splits)
        if recipe.inference.tta:  # as evaluation will, after training
            from torch import nn

            from medssl.inference.mirror import mirrored

            dims = recipe.training.spatial_dims
            mirrored(nn.Identity(), recipe.spec, dataset.labels, spatial_dims=dims)
        for value in sorted(recipe.spec.pieces.keys() - set(dataset.labels.values[1:])):
            display.say(f"note: spec.pieces: the dataset declares no label {value}")
    return CasePlan(dataset, splits, augmenter, known_files(recipe.data, verify=verify_cache))


def _check_native_spacing(loaded: LoadedRecipe, splits: Splits) -> None:
    """Ask the method again with the voxels the scans really have, where the spec leaves them.

    A recipe alone cannot say whether native voxels suit a method that turns volumes around.
    """
    recipe, spec = loaded.recipe, loaded.recipe.spec
    if not splits.labeled or (isinstance(spec.spacing, list) and None not in spec.spacing):
        return
    image = splits.labeled[0].images[0]
    try:
        affine = read_header(image, unit=spec.spatial_unit).affine
    except MedSSLError:
        return  # the check of all files says it better
    if spec.orientation:
        affine = affine[:, [*np.argsort(io_orientation(affine)[:, 0]).astype(int), 3]]
    spacing = [round(float(v), 4) for v in np.linalg.norm(affine[:3, :3], axis=0)]
    if isinstance(spec.spacing, list):
        wanted = zip(spec.spacing, spacing, strict=True)
        spacing = [own if target is None else target for target, own in wanted]
    known = recipe.model_copy(update={"spec": spec.model_copy(update={"spacing": spacing})})
    problems = list(loaded.settings.check_recipe(known))
    if problems:
        raise MedSSLError(
            problems[0], where=image, fix="override spec.spacing, or choose another method"
        )


def _augmenter(
    training: TrainingSettings, spec: DataSpec, dataset: Dataset, splits: Splits
) -> Augmenter:
    """Return the augmentation of a run, which exchanges left and right labels when it mirrors.

    Raises:
        MedSSLError: the dataset's labels do not go with the spec's left and right pairs.
    """
    axis = side_axis(spec, splits.labeled or splits.unlabeled) if spec.label_pairs else 0
    in_patch = training.spatial_dims == 3 or axis != spec.slice_axis
    pairs = class_pairs(
        spec,
        dataset.labels,
        mirrored=training.augment.flip and axis in spec.flip_axes and in_patch,
        where=dataset.root / "dataset.json",
    )
    from medssl.data.patches.augment import Augmenter  # loads PyTorch: when all else is well

    return Augmenter(
        training.augment,
        spec,
        spatial_dims=training.spatial_dims,
        label_pairs=pairs,
        side_axis=axis,
    )

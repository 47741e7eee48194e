"""What predicting is told: with which model, how, and what is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medssl.data.images.names import EXTENSIONS
from medssl.errors import MedSSLError, did_you_mean
from medssl.settings.recipe import InferenceSettings
from medssl.structures.outputs import Outputs

FORMATS = {
    **{suffix[1:]: suffix for suffix in EXTENSIONS},
    "dicom-seg": ".dcm",
}
"""Output formats and the suffixes of their files."""
DICOM_SEG = FORMATS["dicom-seg"]
DECIDE = ("classes", "regions")


@dataclass(frozen=True)
class PredictSettings:
    """How images are predicted; one record from the command to the network.

    Attributes:
        checkpoint: of a run: ``last``, ``best``, or ``auto`` (best where there is one, else last).
        ensemble: more runs, whose probabilities are averaged with it.
        members: of a cross-validation, the number of folds that predict, the first ones; None: all.
        fold: of a cross-validation, the only fold that predicts, counted from 0.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        largest_component: keep the largest piece of each structure; None: as the recipe says.
        tta: average over mirror images; None: as the recipe says.
        decide: ``classes`` or ``regions``; None: as the recipe says.
        calibrated: use the calibration of the run or bundle, where it has one.
        probabilities: write each structure's probability map.
        regions: write each region's mask.
        uncertainty: write the normalized entropy, 0 where the network is sure.
        assess: write what the prediction says of itself, see
            :class:`medssl.inference.assessment.Assessment`.
        format: of the label maps: a key of ``FORMATS``.
        outputs: what else is written of the structures.
        gallery: draw all of it on one page, ``gallery.html``.
        overwrite: predict again what is already there.
        force: predict what the model cannot be meant for, too.
        with_atlas: folder of `medssl atlas` whose atlases give a second opinion; None: none.

    Raises:
        MedSSLError: there is no such format.
    """

    checkpoint: str = "auto"
    ensemble: tuple[Path, ...] = ()
    members: int | None = None
    fold: int | None = None
    device: str = "auto"
    precision: str = "auto"
    largest_component: bool | None = None
    tta: bool | None = None
    decide: str | None = None
    calibrated: bool = True
    probabilities: bool = False
    regions: bool = False
    uncertainty: bool = False
    assess: bool = False
    format: str = "nii.gz"
    outputs: Outputs = field(default_factory=Outputs)
    gallery: bool = False
    overwrite: bool = False
    force: bool = False
    with_atlas: Path | None = None

    def __post_init__(self) -> None:
        if self.decide not in (None, *DECIDE):
            raise MedSSLError(
                f"'{self.decide}' cannot decide",
                where="--decide",
                fix=did_you_mean(str(self.decide), DECIDE),
            )
        if self.format not in FORMATS:
            raise MedSSLError(
                f"there is no output format '{self.format}'",
                where="--format",
                fix=did_you_mean(self.format, FORMATS),
            )

    @property
    def suffix(self) -> str:
        """Of the label maps; probability and entropy maps have another beside DICOM-SEG."""
        return FORMATS[self.format]

    @property
    def map_suffix(self) -> str:
        """Of probability and entropy maps."""
        return ".nii.gz" if self.suffix == DICOM_SEG else self.suffix

    def chosen(self, inference: InferenceSettings) -> InferenceSettings:
        """Return the settings of a recipe, with what is chosen otherwise here."""
        choices = {
            "largest_component": self.largest_component,
            "tta": self.tta,
            "decide": self.decide,
        }
        given = {key: value for key, value in choices.items() if value is not None}
        return inference.model_copy(update=given)

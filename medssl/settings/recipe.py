"""The typed recipe: every key a user may write, with its unit, range and default.

Data spec and training have modules of their own, :mod:`medssl.settings.spec` and
:mod:`medssl.settings.training`. Reading a YAML file into these models is done in
:mod:`medssl.recipe.load`; turning what is wrong with it into a message with file and line in
:mod:`medssl.settings.yaml_file`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from medssl.settings.spec import DataSpec
from medssl.settings.training import TrainingSettings
from medssl.strict import Strict

FAILURE_DICE = 0.5
"""Default of ``evaluation.failure_dice``: below it, mending a label map costs what a new one does.

It stands in the recipe so that it is fixed before any score is seen."""


class SplitFile(Strict):
    """A list of case or patient ids stored under a key of a JSON file."""

    file: str = Field(description="JSON file; a relative path is looked up in the dataset first")
    key: str = Field(description="key of the list inside the file")


OVERRIDDEN = "overridden"
"""Key of a record's section ``method``: the settings that the user set, among all of them."""

Selection = int | list[str] | SplitFile | None
"""How cases are chosen: a number of patients, ids of cases or patients, or a list in a file."""


class RoiSettings(Strict):
    """Work inside a box around what a coarse run finds, in every scan and from no label."""

    run: str = Field(description="folder of the coarse run")
    margin_mm: float = Field(10.0, ge=0, description="added to the box on all sides")
    labels: list[int] | None = Field(
        None, description="label values of the coarse run that count; null: all its structures"
    )
    pieces: Literal["largest", "all"] = Field(
        "largest", description="which connected pieces of them, taken together, count"
    )
    min_volume_mm3: float = Field(0.0, ge=0, description="of a piece, where pieces is all")
    closing_mm: float = Field(0.0, ge=0, description="gaps up to twice this do not divide pieces")


class DataSettings(Strict):
    """Which cases are used, and as what."""

    root: str = Field(
        "", description="Decathlon folder, or `phantom` for the built-in data; has to be named"
    )
    phantom: dict[str, Any] = Field(default_factory=dict, description="options of the phantom")
    labeled: Selection = Field(
        None,
        description="labeled cases for training: a number of patients, `all`, a list of ids, or a "
        "file of them; null: all there are",
    )
    unlabeled: list[str] = Field(default_factory=list, description="more images: folders or globs")
    unlabeled_limit: int | None = Field(None, ge=0, description="at most so many unlabeled cases")
    test_as_unlabeled: bool = Field(False, description="also use imagesTs as unlabeled images")
    validation: Selection = Field(
        0, description="validation cases; a number is taken from the labeled ones"
    )
    test: Selection = Field(0, description="test cases, hidden from training and selection")
    transductive: bool = Field(
        False, description="let images of test patients, never their labels, serve as unlabeled"
    )
    excluded: list[str] = Field(
        default_factory=list, description="cases or patients that are used for nothing at all"
    )
    ancestors: list[str] = Field(
        default_factory=list,
        description="runs that had a part in these labels or images: they made pseudo-labels or an "
        "atlas, or taught; nothing scores a patient whose label one of them saw",
    )
    allow_outside: bool = Field(
        False, description="let dataset.json name files outside of its folder"
    )
    patients: str | None = Field(
        None,
        description="whose scan each case is: a CSV file `case,patient`, or a regular expression "
        "whose first group is the patient of a case id",
    )
    regions: dict[str, list[int]] | None = Field(
        None,
        description="structures that are unions of label values, {whole: [1, 2, 3], core: [2, 3]}; "
        "in place of those that dataset.json states; null: its own",
    )
    split_seed: int = Field(0, description="seed of the patient shuffle behind numbers above")
    roi: RoiSettings | None = Field(
        None, description="crop every scan to a region of interest: a coarse run, or settings"
    )
    cache: str | None = Field(None, description="folder of the preprocessing cache")

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, values: Any) -> Any:
        """Read the name that ``patients`` had in recipes of 0.1.0."""
        if not isinstance(values, dict) or "patient_pattern" not in values:
            return values
        former = values["patient_pattern"]
        others = {k: v for k, v in values.items() if k != "patient_pattern"}
        if former is not None and others.get("patients") not in (None, former):
            raise ValueError("patient_pattern is the former name of patients: give one of the two")
        return {**others, "patients": others.get("patients") or former}

    @field_validator("roi", mode="before")
    @classmethod
    def _run_alone(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @field_validator("labeled", "validation", "test", mode="before")
    @classmethod
    def _number_or_ids(cls, value: Any, info: ValidationInfo) -> Any:
        """Say in plain words what is no number of patients, such as a share of them."""
        every = ", `all`" if info.field_name == "labeled" else ""
        if isinstance(value, str) and value.strip().lower() == "all" and every:
            return None
        number = (
            value.isdecimal() if isinstance(value, str) else not isinstance(value, bool | float)
        )
        if not number:
            raise ValueError(
                f"must be a number of patients such as 8{every}, a list of ids, or {{file: "
                "splits.json, key: NAME}; a share of them such as 10% or 0.1 is not read: `medssl "
                "check DATASET` tells how many patients there are"
            )
        return value

    @field_validator("labeled", "validation", "test")
    @classmethod
    def _not_negative(cls, value: Selection) -> Selection:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more")
        return value


DRAWN = ("default", "kaiming")
"""Values of ``network.init`` that are options of some networks and name no trained weights."""


class NetworkSettings(Strict):
    """A network by name; every other key is an option of that network."""

    model_config = ConfigDict(extra="allow")
    name: str = Field("unet", description="see `medssl info`")
    init: str | None = Field(
        None,
        description="weights to start from: a run, a cross-validation (fold by fold), a MONAI "
        "bundle, an installed model's name or a file of weights; or `default` or `kaiming`, where "
        "the network draws its own",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The network's own settings."""
        drawn = {"init": self.init} if self.init in DRAWN else {}
        return {**(self.model_extra or {}), **drawn}

    @property
    def given(self) -> str | None:
        """What trained weights are taken from; None where they are drawn."""
        return None if self.init in DRAWN else self.init


class MethodSection(Strict):
    """A method by name; every other key is a setting of that method.

    Of a resolved recipe they are all there, and ``overridden`` names those that the user set.
    """

    model_config = ConfigDict(extra="allow")
    name: str = Field("supervised", description="see `medssl methods`")

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings."""
        return {k: v for k, v in (self.model_extra or {}).items() if k != OVERRIDDEN}

    @property
    def overridden(self) -> tuple[str, ...]:
        """The settings that the user set."""
        return tuple((self.model_extra or {}).get(OVERRIDDEN, self.settings))


class InferenceSettings(Strict):
    """Sliding-window inference."""

    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window its neighbor repeats")
    stride: list[int] | None = Field(None, description="voxels between windows; overrides overlap")
    blend: Literal["gaussian", "constant"] = Field("gaussian")
    window_batch: int = Field(
        4, ge=1, description="windows per forward pass; on a CPU large ones go one by one"
    )
    tta: bool = Field(
        False, description="average over mirror images along the axes the data spec allows"
    )
    skip_empty: bool = Field(
        False, description="call windows background in which every voxel has the lowest intensity"
    )
    memory_gb: float = Field(
        2.0, gt=0, description="host memory for class probabilities; more classes take more passes"
    )
    decide: Literal["classes", "regions"] = Field(
        "classes",
        description="classes: the most probable one; regions: of the dataset, where their summed "
        "probability is above one half, in their order",
    )
    largest_component: bool | None = Field(
        None, description="keep the largest piece of each structure; null: as the data spec says"
    )


class EvaluationSettings(Strict):
    """What is measured after training."""

    splits: list[Literal["validation", "test"]] = Field(
        ["test"], description="empty ones are skipped"
    )
    checkpoint: Literal["auto", "last", "best"] = Field(
        "auto", description="auto: best where there is a validation set, else last"
    )
    voxel_metrics: bool = Field(
        False, description="add the literature's HD95 and ASD in voxels (medpy definitions)"
    )
    nsd_tolerance: float | None = Field(None, gt=0, description="overrides the data spec's")
    failure_dice: float = Field(
        FAILURE_DICE, gt=0, lt=1, description="patients whose Dice is lower are counted as failures"
    )


class Recipe(Strict):
    """A whole experiment. Saved in the run folder, it reruns it."""

    name: str = Field("experiment", min_length=1, description="names the run folder")
    privacy: Literal["off", "strict"] = Field(
        "off",
        description="strict: no path, file name or case id in log.txt, metrics and manifest",
    )
    protocol: Literal["clean", "literature"] = Field(
        "clean", description="clean, or literature: as a paper has it, where that is not clean"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, patches and augmentation")
    data: DataSettings = Field(default_factory=DataSettings)
    spec: DataSpec = Field(default_factory=DataSpec)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    method: MethodSection = Field(default_factory=MethodSection)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    inference: InferenceSettings = Field(default_factory=InferenceSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    @field_validator("privacy", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as false

    @field_validator("name")
    @classmethod
    def _one_folder(cls, value: str) -> str:
        if not value.isprintable() or set(value) & {"/", "\\"} or not value.strip(". "):
            raise ValueError("must be usable as the name of one folder")
        if len(value.encode()) > 180:
            raise ValueError("is too long for the name of a folder")
        return value

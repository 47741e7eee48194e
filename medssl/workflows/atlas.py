"""Segment by atlases: labeled scans are registered to others and vote; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.atlases.settings import AtlasSettings
from medssl.data.datasets.split_file import save_splits
from medssl.errors import MedSSLError
from medssl.paths import AnyPath
from medssl.planning.median import with_spacing
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, load_recipe, save_recipe
from medssl.runs.folder import RunFolder
from medssl.training.cases import CasePlan, plan_cases
from medssl.workflows.planned_runs import only_one
from medssl.workflows.training_order import refuse_seen_patients

if TYPE_CHECKING:
    from medssl.atlases.folder import Alignment
    from medssl.atlases.scans import Atlases
    from medssl.data.datasets.case import Case
    from medssl.inference.predictor import Predictor

LEAVE_ONE_OUT, TEST, UNLABELED = "leave_one_out", "test", "unlabeled"


@dataclass(frozen=True)
class AtlasResult:
    """What `medssl atlas` leaves.

    Attributes:
        path: the folder.
        alignment: how well the labeled scans predict each other.
        test: what was measured on the recipe's test cases; None without any.
    """

    path: Path
    alignment: Alignment
    test: dict[str, Any] | None


def atlas(
    recipe: AnyPath,
    *,
    output: AnyPath | None = None,
    overrides: Sequence[str] = (),
    count: int | None = None,
    unlabeled: bool = False,
    force: bool = False,
    display: Display | None = None,
) -> AtlasResult:
    """Label scans by registering the labeled ones to them and fusing their labels.

    First each labeled scan is labeled by those of the other patients. Only where that works are the
    recipe's test cases labeled and measured. Interrupted, the same call goes on. The folder may
    then be named to `predict`, as a second opinion beside a network's.

    Args:
        recipe: a recipe file, the name of a shipped one, or a run folder: its dataset, cases and
            data spec count, not its network and method.
        output: the folder; by default ``runs/NAME-atlas``.
        overrides: ``section.key=value`` assignments.
        count: the so many nearest atlases vote on a scan; None: all.
        unlabeled: also label the unlabeled scans, into ``predictions/unlabeled``.
        force: go on where labeled scans do not predict each other.

    Raises:
        MedSSLError: fewer than two labeled patients, or labeled scans that do not predict each
            other (mean Dice below 0.7).

    Example:
        >>> found = medssl.atlas("mine.yaml", output="runs/atlases", force=True)
        >>> found.alignment.patients, found.test["n_patients"]
        (2, 2)
    """
    display = display or Display(quiet=True)
    loaded = load_recipe(recipe, overrides)
    if loaded.recipe.data.roi is not None:
        raise MedSSLError(
            "data.roi crops scans to what a coarse network finds, and atlases take whole scans",
            where=loaded.source,
            fix="take data.roi out: --set data.roi=null",
        )
    loaded = with_spacing(loaded, display)
    plan = plan_cases(loaded, display, uses_unlabeled=unlabeled)
    refuse_seen_patients(loaded, plan)
    folder = RunFolder(Path(output or Path("runs") / f"{loaded.recipe.name}-atlas"))
    with only_one(folder.path, "atlas"):
        settings = AtlasSettings(count=count)
        return _label(loaded, plan, folder, settings, display, (unlabeled, force))


def _label(
    loaded: LoadedRecipe,
    plan: CasePlan,
    folder: RunFolder,
    settings: AtlasSettings,
    display: Display,
    asked: tuple[bool, bool],
) -> AtlasResult:
    """Judge the atlases, then label what is asked for: unlabeled scans, and scans by force."""
    from medssl.atlases.folder import AtlasRecord, does_not_align
    from medssl.atlases.scans import Atlases
    from medssl.inference.identity import weights_sha256
    from medssl.workflows.evaluate import predict_cases

    (unlabeled, force), splits = asked, plan.splits
    atlases = Atlases.of(splits.labeled, loaded.recipe.spec, plan.dataset.labels, settings)
    sha256 = weights_sha256(atlases)
    _begin(loaded, plan, folder, sha256)
    predictor = as_predictor(atlases, loaded, plan, folder.path)
    alignment = _alignment(
        _judge(loaded, predictor, folder, LEAVE_ONE_OUT, splits.labeled, display)
    )
    AtlasRecord(sha256, settings, alignment).write(folder.path)
    display.say(alignment.sentence)
    if not alignment.aligns and not force:
        raise does_not_align(alignment, folder.path)
    if unlabeled:
        to = folder.predictions(UNLABELED)
        predict_cases(predictor, splits.unlabeled, to, UNLABELED, display, anew=False)
    test = None
    if splits.test:
        test = _judge(loaded, predictor, folder, TEST, splits.test, display)
    return AtlasResult(folder.path, alignment, test)


def of_labeled_patients(
    source: Path, loaded: LoadedRecipe, plan: CasePlan, folder: Path
) -> Predictor:
    """Return what predicts by those atlases of a folder whose patients are labeled here.

    So nothing of a fold's held-out patients is passed on, though the folder is of all labels.

    Args:
        source: that `atlas` wrote.
        loaded, plan: the recipe and the cases of the fold.
        folder: gets the record of the atlases that are left, so that what they label has a lineage.

    Raises:
        MedSSLError: no such folder, one of another dataset, or anatomy that does not align.
    """
    from medssl.atlases.folder import AtlasRecord, open_atlases, read_record
    from medssl.atlases.scans import Atlases
    from medssl.inference.identity import weights_sha256
    from medssl.runs.lineage import read_lineage

    opened = open_atlases(source, loaded.recipe.spec, plan.dataset.labels, force=False)
    labeled = {case.patient for case in plan.splits.labeled}
    kept = [atlas for atlas in opened.atlases if atlas.patient in labeled]
    if not kept or read_lineage(RunFolder(source, writes=False)).dataset != plan.dataset.name:
        raise MedSSLError(
            "the atlases are not labeled scans of this recipe",
            where=source,
            fix="make them of the same recipe: medssl atlas RECIPE --output FOLDER",
        )
    atlases, record = Atlases(kept, opened.num_classes, opened.settings), read_record(source)
    sha256 = weights_sha256(atlases)
    _begin(loaded, plan, RunFolder(folder), sha256)
    AtlasRecord(sha256, record.settings, record.alignment).write(folder)
    return as_predictor(atlases, loaded, plan, folder)


def as_predictor(atlases: Atlases, loaded: LoadedRecipe, plan: CasePlan, source: Path) -> Predictor:
    """Return what predicts by atlases alone, with files and records like a network's."""
    import torch

    from medssl.inference.identity import weights_sha256
    from medssl.inference.opinion import Opinion
    from medssl.inference.predictor import Predictor
    from medssl.inference.task import Task

    recipe, channels = loaded.recipe, plan.sizes["channels"]
    task = Task(recipe.spec, plan.dataset.labels, tuple(recipe.training.patch), channels)
    inference = recipe.inference.model_copy(update={"tta": False, "stride": None})
    predictor = Predictor(atlases, task, inference, device=torch.device("cpu"))
    predictor.opinion = Opinion(atlases, 1.0, weights_sha256(atlases))
    predictor.source = str(source)
    return predictor


def _begin(loaded: LoadedRecipe, plan: CasePlan, folder: RunFolder, sha256: str) -> None:
    """Write down what is labeled by what; refuse a folder of other atlases.

    Raises:
        MedSSLError: the folder holds a run, or was made with other atlases.
    """
    from medssl.atlases.folder import RECORD, read_record
    from medssl.data.datasets.contents import Contents
    from medssl.runs.lineage import lineage_of, write_lineage

    another = "choose another --output, or remove the folder"
    if (folder.path / RECORD).is_file():
        if read_record(folder.path).sha256 != sha256:
            raise MedSSLError("was made with other atlases", where=folder.path, fix=another)
        return
    if folder.manifest.is_file():
        raise MedSSLError("is the folder of a run", where=folder.path, fix=another)
    save_recipe(loaded.recipe, folder.recipe)
    save_splits(plan.splits, folder.splits)
    contents = Contents(plan.files, plan.dataset.spatial_unit)
    write_lineage(lineage_of(loaded.recipe, plan.dataset, plan.splits, contents), folder)


def _judge(
    loaded: LoadedRecipe,
    predictor: Predictor,
    folder: RunFolder,
    part: str,
    cases: Sequence[Case],
    display: Display,
) -> dict[str, Any]:
    """Label cases whose labels are known, measure them, and return the summary."""
    from medssl.evaluation.summary import summarize, write_cases_csv
    from medssl.files import write_json
    from medssl.workflows.evaluate import measure, measures_of, predict_cases

    recipe, labels = loaded.recipe, predictor.label_map
    cases = sorted(cases, key=lambda c: c.id)
    output, shown = folder.predictions(part), part.replace("_", " ")
    files = predict_cases(predictor, cases, output, shown, display, anew=False)
    with display.counting(f"measuring {shown}", len(cases)) as done:
        rows, _ = measure(recipe, labels, cases, files, done)
    summary = summarize(
        rows,
        patients={c.id: c.patient for c in cases},
        nsd_tolerance=measures_of(recipe).nsd_tolerance,
        failure_dice=recipe.evaluation.failure_dice,
    ) | {"split": part, "run": f"atlases of {recipe.name}", "checkpoint": "no"}
    write_cases_csv(rows, folder.evaluation(part) / "cases.csv")
    write_json(folder.evaluation(part) / "summary.json", summary)
    return summary


def _alignment(summary: dict[str, Any]) -> Alignment:
    """Return how well labeled scans predict each other, of the summary of leaving one out."""
    from medssl.atlases.folder import Alignment

    dice = summary["overall"]["metrics"]["dice"]
    low, high = (None, None) if dice["no_interval"] else (dice["low"], dice["high"])
    each = {name: s["metrics"]["dice"]["mean"] for name, s in summary["structures"].items()}
    return Alignment(dice["mean"], low, high, structures=each, patients=summary["n_patients"])

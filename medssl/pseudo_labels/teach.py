"""What a round needs of each fold: its scans, the members' label maps, the members as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medssl.cross_validation.plan import PlannedFold
from medssl.data.checks.sketches import look
from medssl.data.datasets.contents import Contents
from medssl.inference.identity import weights_sha256
from medssl.inference.predictor import Predictor
from medssl.inference.record_file import read_record
from medssl.inference.settings import PredictSettings
from medssl.models.loaded_run import load_run
from medssl.progress import Display
from medssl.pseudo_labels.labels import Maker, Pool
from medssl.pseudo_labels.plan import Planner
from medssl.recipe.load import LoadedRecipe
from medssl.runs.folder import RunFolder
from medssl.training.cases import CasePlan, plan_cases
from medssl.workflows.atlas import UNLABELED, of_labeled_patients
from medssl.workflows.evaluate import measure, predict_cases
from medssl.workflows.open_predictor import open_predictor
from medssl.workflows.training_order import spaced_as


@dataclass(frozen=True)
class Teachers:
    """The members of one fold, and the scans that they label.

    Attributes:
        planner: knows the folds.
        fold: which one.
        runs: finished runs that label; none saw a patient of the fold.
        atlas: folder of `medssl atlas`, whose atlases of the fold's labeled patients label, too.
        device, precision: where the networks run.
    """

    planner: Planner
    fold: int
    runs: Sequence[PlannedFold]
    atlas: Path | None
    device: str
    precision: str

    @cached_property
    def recipe(self) -> LoadedRecipe:
        """The recipe of the fold, with the voxel size that its members found."""
        return spaced_as(self.planner.recipe_of(self.fold), RunFolder(self.runs[0].path))

    @cached_property
    def plan(self) -> CasePlan:
        """Which case the fold may use as what."""
        return plan_cases(self.recipe, Display(quiet=True), uses_unlabeled=True)

    def pool(self, display: Display) -> Pool:
        """Return the scans of the fold, without copies of who is held out."""
        plan, locked = self.plan, set(self.planner.dealt.locked)
        data = plan.dataset
        everyone = (*data.training, *data.unlabeled, *data.test)
        held = [*plan.splits.validation, *plan.splits.test]
        held += [case for case in everyone if {case.id, case.patient} & locked]
        return Pool(
            data,
            plan.splits.labeled,
            plan.splits.unlabeled,
            tuple({case.id: case for case in held}.values()),
            Contents(plan.files, data.spatial_unit, look),
        ).without_copies(display)

    def makers(self, pool: Pool, display: Display) -> list[Maker]:
        """Let every member label the scans of a pool; what it has labeled before is kept."""
        found = []
        for run in self.runs:
            loaded = load_run(
                run.path, checkpoint="last", device=self.device, precision=self.precision
            )
            found.append(self._maker(loaded.predictor, run.path, pool, display))
        if self.atlas is not None:
            predictor = of_labeled_patients(self.atlas, self.recipe, self.plan, self._own_atlas)
            found.append(self._maker(predictor, self._own_atlas, pool, display))
        return found

    @property
    def _own_atlas(self) -> Path:
        return self.planner.place(self.fold, "atlases")

    def _maker(self, predictor: Predictor, source: Path, pool: Pool, display: Display) -> Maker:
        sha256, output = weights_sha256(predictor.model), RunFolder(source).predictions(UNLABELED)
        models, _ = read_record(output, damaged=True)
        anew = any(model["weights_sha256"] != sha256 for model in models.values())
        name = source.relative_to(self.planner.folder).as_posix()
        display.say(f"labeling: {name}")
        maps = predict_cases(predictor, pool.unlabeled, output, UNLABELED, display, anew=anew)
        return Maker(name, str(source), sha256, maps)

    def together(self, output: Path, display: Display, *, anew: bool) -> list[dict[str, Any]]:
        """Return the scores of the members as one, by the mean of probabilities, on test cases."""
        first, *others = (run.path for run in self.runs)
        settings = PredictSettings(
            checkpoint="last",
            device=self.device,
            precision=self.precision,
            ensemble=tuple(others),
            with_atlas=None if self.atlas is None else self._own_atlas,
        )
        predictor, _ = open_predictor(first, settings)
        cases = self.plan.splits.test
        files = predict_cases(predictor, cases, output, "held-out cases", display, anew=anew)
        recipe, labels = self.planner.loaded.recipe, predictor.label_map
        return measure(recipe, labels, cases, files, lambda _: None)[0]

"""What is written of one case, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from medssl.data.datasets.label_regions import LabelRegion
from medssl.inference.assessment_files import assessment_file, read_assessment
from medssl.inference.inputs import Item, Source
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.structures.outputs import OutputFiles, structure_files


@dataclass(frozen=True)
class CaseFiles:
    """One case and where its results go.

    ``maps`` are probability maps by structure, ``masks`` binary ones.
    """

    case_id: str
    source: Source
    label: Path
    maps: dict[LabelRegion, Path]
    entropy: Path | None = None
    assessment: Path | None = None
    structures: OutputFiles = field(default_factory=OutputFiles)
    masks: dict[LabelRegion, Path] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[Path, ...]:
        """All files, the label map last."""
        others = [path for path in (self.entropy, self.assessment) if path is not None]
        others += [*self.structures.all, *self.masks.values()]
        return (*self.maps.values(), *others, self.label)

    @property
    def depend_on_temperature(self) -> bool:
        """Whether there is more than label map and structures, which calibration leaves alone."""
        return len(self.targets) - len(self.structures.all) - len(self.masks) > 1

    def are_there(self, temperature: float) -> bool:
        """Tell whether every file is there, and the assessment is of this temperature."""
        if not all(path.is_file() for path in self.targets):
            return False
        if self.assessment is None:
            return True
        found = read_assessment(self.assessment)
        return found is not None and math.isclose(found.temperature, temperature, rel_tol=1e-9)


def files_of_case(
    predictor: Predictor, item: Item, output: Path, settings: PredictSettings
) -> CaseFiles:
    """Return what is written of a case into a folder."""
    (case_id, source), suffix = item, settings.map_suffix
    labels = predictor.label_map
    named = list(zip(labels.structures, structure_files(labels.structures), strict=True))

    # In folders of their own, so that the label maps can be evaluated as a folder.
    def of_each(folder: str, *, wanted: bool) -> dict[LabelRegion, Path]:
        each = named if wanted else []
        return {one: output / folder / f"{case_id}_{name}{suffix}" for one, name in each}

    maps = of_each("probabilities", wanted=settings.probabilities)
    entropy = output / "uncertainty" / f"{case_id}{suffix}" if settings.uncertainty else None
    facts = assessment_file(output, case_id) if settings.assess else None
    label = output / f"{case_id}{settings.suffix}"
    structures = settings.outputs.files(output, case_id, labels)
    masks = of_each("regions", wanted=settings.regions)
    return CaseFiles(case_id, source, label, maps, entropy, facts, structures, masks)

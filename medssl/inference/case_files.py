"""What is written of one case, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from medssl.data.images.names import file_names
from medssl.inference.assessment_files import assessment_file, read_assessment
from medssl.inference.inputs import Item, Source
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.structures.outputs import OutputFiles


@dataclass(frozen=True)
class CaseFiles:
    """One case and where its results go; ``maps`` are probability maps by class index."""

    case_id: str
    source: Source
    label: Path
    maps: dict[int, Path]
    entropy: Path | None = None
    assessment: Path | None = None
    structures: OutputFiles = field(default_factory=OutputFiles)

    @property
    def targets(self) -> tuple[Path, ...]:
        """All files, the label map last."""
        others = (path for path in (self.entropy, self.assessment) if path is not None)
        return (*self.maps.values(), *others, *self.structures.all, self.label)

    @property
    def depend_on_temperature(self) -> bool:
        """Whether there is more than label map and structures, which calibration leaves alone."""
        return len(self.targets) - len(self.structures.all) > 1

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
    names = file_names(labels.names[1:], labels.values[1:]) if settings.probabilities else []
    # In a folder of their own, so that the label maps can be evaluated as a folder.
    maps = {
        index: output / "probabilities" / f"{case_id}_{name}{suffix}"
        for index, name in enumerate(names, start=1)
    }
    entropy = output / "uncertainty" / f"{case_id}{suffix}" if settings.uncertainty else None
    facts = assessment_file(output, case_id) if settings.assess else None
    label = output / f"{case_id}{settings.suffix}"
    structures = settings.outputs.files(output, case_id, labels)
    return CaseFiles(case_id, source, label, maps, entropy, facts, structures)

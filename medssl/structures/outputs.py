"""What is written of the structures of one case beside its label map, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.label_regions import LabelRegion
from medssl.data.dicom.series import Series
from medssl.data.images.geometry import Unit
from medssl.data.images.names import file_names
from medssl.files import write_json
from medssl.optional import optional_module
from medssl.structures.mesh import EXTRA, mesh_of
from medssl.structures.mesh_files import check_mesh_format, write_mesh
from medssl.structures.rtstruct import check_rtstruct, write_rtstruct
from medssl.structures.statistics import statistics_file, statistics_of


def structure_files(structures: Sequence[LabelRegion]) -> list[str]:
    """Return a part of a file name for each structure."""
    return file_names([s.name for s in structures], [s.label for s in structures])


@dataclass(frozen=True)
class Outputs:
    """What is asked for.

    Attributes:
        rtstruct: contours as a DICOM RT Structure Set, of DICOM series.
        statistics: figures of each structure.
        meshes: ``stl`` or ``obj``, a surface of each structure; None: none.

    Raises:
        MedSSLError: there is no such format of meshes.
    """

    rtstruct: bool = False
    statistics: bool = False
    meshes: str | None = None

    def __post_init__(self) -> None:
        if self.meshes is not None:
            check_mesh_format(self.meshes)

    def need_packages(self) -> None:
        """Refuse what is asked for if a package is missing, before anything is predicted.

        Raises:
            MedSSLError: names the extra that brings it.
        """
        if self.rtstruct:
            optional_module("pydicom", EXTRA)
        if self.rtstruct or self.statistics or self.meshes is not None:
            optional_module("skimage.measure", EXTRA)

    def files(self, output: Path, case_id: str, labels: LabelMap) -> OutputFiles:
        """Return what is written of a case into a folder."""
        structures = labels.structures if self.meshes else ()
        names = structure_files(structures)
        return OutputFiles(
            rtstruct=output / "rtstruct" / f"{case_id}.dcm" if self.rtstruct else None,
            statistics=statistics_file(output, case_id) if self.statistics else None,
            meshes={
                structure: output / "meshes" / f"{case_id}_{name}.{self.meshes}"
                for name, structure in zip(names, structures, strict=True)
            },
        )


@dataclass(frozen=True)
class OutputFiles:
    """Files of one case; ``meshes`` are by structure."""

    rtstruct: Path | None = None
    statistics: Path | None = None
    meshes: dict[LabelRegion, Path] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them."""
        others = (path for path in (self.rtstruct, self.statistics) if path is not None)
        return (*others, *self.meshes.values())

    def check(self, source: object) -> None:
        """Say before a case is predicted that what is asked for cannot be written of it.

        Raises:
            MedSSLError: contours could not refer to its series.
        """
        if self.rtstruct is not None and isinstance(source, Series):
            check_rtstruct(source)

    def write(
        self,
        values: np.ndarray,
        affine: np.ndarray,
        *,
        labels: LabelMap,
        unit: Unit,
        source: object,
        channels: Callable[[], Sequence[np.ndarray]],
    ) -> None:
        """Write them.

        Args:
            values: label values ``(X, Y, Z)``.
            affine: ``(4, 4)`` voxel to RAS, in mm.
            labels: what the values mean.
            unit: of the figures; meshes and contours are in mm.
            source: the series that was segmented, or something else.
            channels: reads the intensities ``(X, Y, Z)`` of each channel.

        Raises:
            MedSSLError: the image cannot be read again, or the disk refuses.
        """
        if self.statistics is not None:
            rows = statistics_of(values, affine, channels(), labels, unit)
            write_json(self.statistics, rows)
        for structure, path in self.meshes.items():
            write_mesh(mesh_of(structure.mask(values), affine), path)
        if self.rtstruct is not None and isinstance(source, Series):
            write_rtstruct(values, self.rtstruct, series=source, labels=labels)

"""Datasets that exist as fingerprints alone, and what a plan of them is asked for."""

from __future__ import annotations

from medssl.data.datasets.fingerprint import Fingerprint, LabeledStructure, ScanGrid
from medssl.planning.draft import PlanOrder
from medssl.planning.footprint import Footprint
from medssl.planning.patients import choose_patients

GIB = 2**30

SMALL_STEP = Footprint(fixed=1e6, constant=0.0, per_voxel=1000.0)


def found(
    shape=(35, 51, 35),
    spacing=(1.0, 1.0, 1.0),
    *,
    modality="MRI",
    names=("Anterior", "Posterior"),
    scans=(),
    **more,
) -> Fingerprint:
    """Return a fingerprint of four scans that are alike, or of those given."""
    return Fingerprint(
        name=more.pop("name", "Some data"),
        modality=(modality,),
        structures=tuple(
            n if isinstance(n, LabeledStructure) else LabeledStructure(i, n)
            for i, n in enumerate(names, 1)
        ),
        scans=tuple(scans) or (ScanGrid(shape, spacing),) * 4,
        labeled=4,
        unlabeled=20,
        patients=30,
        **more,
    )


ATRIUM = found((193, 143, 88), (0.625,) * 3, names=("left atrium",))
CINE = found((216, 256, 10), (1.5, 1.5, 10.0), names=("RV", "myocardium", "LV"))
COUNTS = choose_patients(30, 4, unlabeled=20)


def order(method="bcp", device="cpu", gib=12.0) -> PlanOrder:
    return PlanOrder("some/data", method, device, gib * GIB, "a CPU")

"""Write a dataset, and pseudo-labels that are believed, as a raw folder of nnU-Net 2.

Folder::

    Dataset501_NAME/dataset.json           classes counted up, ``ignore`` the next value
    Dataset501_NAME/imagesTr, labelsTr     true labels, and pseudo-labels (``ID__fold_K`` of fold K)
    Dataset501_NAME/imagesTs, labelsTs     test scans
    Dataset501_NAME/imagesUn               scans without a believed label; nnU-Net looks not there
    Dataset501_NAME/splits_final.json      which cases train and validate
    Dataset501_NAME/medssl.json            what is true and what is pseudo, patients, label values
    Dataset501_NAME/trainer/               for nnU-Net's external trainers
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, Case, Dataset
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.copies import patient_groups
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.images.write import write_nifti
from medssl.data.importers.nnunet_exported import RECORD, RECORD_FORMAT
from medssl.data.importers.volumes import read_case_label, read_channels
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, link_or_copy, refuse_filled, write_json, write_text
from medssl.nnunet.believed import PseudoLabels, find_pseudo_labels
from medssl.nnunet.folds import Pseudo, plan_folds
from medssl.nnunet.roles import Roles, roles_of
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.runs.lineage import PREDICTIONS, Lineage, predicted_by, read_ancestor
from medssl.runs.seen import who_was_seen

SPLITS = "splits_final.json"
TRAINER = "nnUNetTrainerMedSSL"
ENDING = ".nii.gz"
_NAME = re.compile(r"Dataset\d{3}_\w.*")


@dataclass(frozen=True)
class NNUNetExport:
    """What was written.

    Attributes:
        path: the raw folder.
        labeled, pseudo, unlabeled, test: scans of each kind; a scan counts once, however many folds
            have a pseudo-label of it.
        folds: number of folds in ``splits_final.json``.
        folds_use_pseudo: whether they train on pseudo-labels; if not, fold ``all`` alone does.
        ignored: share of the voxels of pseudo-labels that are not believed.
        notes: what the user should know.
    """

    path: Path
    labeled: int
    pseudo: int
    unlabeled: int
    test: int
    folds: int
    folds_use_pseudo: bool
    ignored: float
    notes: tuple[str, ...] = ()


def export_nnunet(
    dataset: AnyPath,
    output: AnyPath,
    *,
    pseudo_labels: AnyPath | None = None,
    round_number: int | None = None,
    patients: str | None = None,
    unlabeled: Sequence[str] = (),
    allow_outside: bool = False,
    display: Display | None = None,
) -> NNUNetExport:
    """Write a dataset as a raw folder of nnU-Net 2, with pseudo-labels that are believed.

    Args:
        dataset: the Decathlon folder.
        output: the folder to write, ``.../DatasetNNN_NAME``; nnU-Net knows it by the number.
        pseudo_labels: folder of `selftrain`, a run with predictions of its unlabeled scans, or a
            folder that `predict` wrote. None: true labels alone.
        round_number: of a self-training; by default the one it took.
        patients, unlabeled, allow_outside: as for `check`.
        display: shows progress.

    Raises:
        MedSSLError: nothing to export, pseudo-labels of other scans, a name that nnU-Net does not
            take, or a file that cannot be read or written. Nothing is left behind then.

    Example:
        >>> found = medssl.export_nnunet("data", "nnUNet_raw/Dataset502_Phantom")
        >>> found.labeled
        8
    """
    display, target = display or Display(quiet=True), Path(output).expanduser()
    if not _NAME.fullmatch(target.name):
        raise MedSSLError(
            f"nnU-Net takes no folder called '{target.name}'",
            where=target,
            fix="name it DatasetNNN_NAME, such as nnUNet_raw/Dataset501_Liver",
        )
    refuse_filled(target, "the raw folder")
    data = read_dataset(
        Path(dataset), patients=patients, extra_unlabeled=unlabeled, allow_outside=allow_outside
    )
    sets = [] if pseudo_labels is None else find_pseudo_labels(Path(pseudo_labels), round_number)
    roles = roles_of(data, sets)
    with all_or_nothing(target, "the raw folder") as building:
        return _Writer(data, sets, roles, building, display).write(target)


class _Writer:
    """Writes the folder, and remembers what its records need."""

    def __init__(
        self,
        data: Dataset,
        sets: Sequence[PseudoLabels],
        roles: Roles,
        folder: Path,
        display: Display,
    ) -> None:
        self.data, self.sets, self.roles, self.folder = data, sets, roles, folder
        self.display, self.notes = display, [*roles.notes]
        self.ignore = data.labels.num_classes
        self.cases: dict[str, dict[str, Any]] = {}
        self.undecided, self.voxels = 0, 0

    def write(self, target: Path) -> NNUNetExport:
        """Write everything, and say what."""
        roles = self.roles
        groups = self._groups()
        pseudo = [self._pseudo(index, one, groups) for index, one in enumerate(self.sets)]
        total = sum(map(len, (roles.truth, roles.pseudo, roles.unlabeled, roles.test)))
        with self.display.counting("writing the raw folder", total) as done:
            for folder, cases in (("Tr", roles.truth), ("Un", roles.unlabeled), ("Ts", roles.test)):
                for case in cases:
                    self._case(case, folder)
                    done(case.id)
            for case in roles.pseudo:
                self._pseudo_case(case)
                done(case.id)
        truth = {case.id: groups[case.id] for case in roles.truth}
        folds, used = plan_folds(truth, pseudo)
        if pseudo and not used:
            self.notes.append(
                "the labels of all patients made the pseudo-labels, so the folds train on true "
                "labels alone; fold all trains on everything, and nothing here may score it"
            )
        self._records(folds)
        return NNUNetExport(
            target,
            labeled=len(roles.truth),
            pseudo=len(roles.pseudo),
            unlabeled=len(roles.unlabeled),
            test=len(roles.test),
            folds=len(folds),
            folds_use_pseudo=used,
            ignored=self.undecided / max(1, self.voxels),
            notes=tuple(self.notes),
        )

    def _groups(self) -> dict[str, str]:
        """Return the person that each case shows: of one patient, or a copy by its voxels."""
        roles = self.roles
        cases = [*roles.truth, *roles.pseudo]
        if not self.sets:
            return {case.id: case.patient for case in cases}
        self.contents = Contents(KnownFiles(None), self.data.spatial_unit)
        with self.display.counting("looking for copies", len(cases)) as done:
            hashes = {}
            for case in cases:
                hashes[case.id] = self.contents.all_of(case)
                done(case.id)
        return patient_groups(cases, hashes)

    def _pseudo(self, index: int, one: PseudoLabels, groups: dict[str, str]) -> Pseudo:
        """Say what the folds have to know of a set: whose labels made it, whom it is for."""
        sources = predicted_by(one.maps.values())
        ancestors = tuple(read_ancestor(how, Path(path)) for how, path in sources)
        lineage = Lineage(ancestors=ancestors)
        truth = self.roles.truth
        seen = who_was_seen(lineage, truth, self.data.name, contents=self.contents)
        unknown = bool(seen.unknown) or not ancestors
        if unknown and index == 0:
            self.notes.append(f"whose labels made the pseudo-labels is not known ({PREDICTIONS})")
        validates = None
        if one.validates is not None:
            named = set(one.validates)
            validates = frozenset(groups[c.id] for c in truth if c.patient in named)
        return Pseudo(
            ids={self._id(case, index): groups[case] for case in one.maps},
            seen=None
            if unknown
            else frozenset(groups[c.id] for c in truth if c.patient in seen.labels),
            validates=validates,
        )

    def _id(self, case: str, index: int) -> str:
        return case if len(self.sets) == 1 else f"{case}__fold_{index}"

    def _case(self, case: Case, folder: str) -> None:
        """Write a case with its true label, if it has one and that is to be known."""
        role = {"Tr": "labeled", "Un": "unlabeled", "Ts": "test"}[folder]
        image = self._image(case, case.id, folder)
        if case.label is not None and folder != "Un":
            unit = self.data.spatial_unit
            values, _ = read_case_label(case.label, case.id, image, unit=unit)
            try:
                classes = self.data.labels.to_classes(values)
            except ValueError as error:
                raise MedSSLError(str(error), where=case.label, fix="see: medssl check") from None
            self._label(case.id, classes, image.affine, f"labels{folder}")
        self._remember(case.id, case, role)

    def _pseudo_case(self, case: Case) -> None:
        """Write a case with each fold's pseudo-label of it."""
        first: str | None = None
        for index, one in enumerate(self.sets):
            if case.id not in one.maps:
                continue
            name = self._id(case.id, index)
            if first is None:
                image, first = self._image(case, name, "Tr"), name
            else:
                self._same_image(first, name)
            classes, _ = one.believed(case.id, self.data.labels)
            if classes.shape != image.data.shape[:3]:
                raise MedSSLError(
                    f"the pseudo-label has {classes.shape} voxels, the image {image.data.shape}",
                    where=one.maps[case.id],
                    fix="give pseudo-labels of this dataset's scans",
                )
            self.voxels += classes.size
            self.undecided += int((classes == IGNORE_INDEX).sum())
            self._label(name, classes, image.affine, "labelsTr")
            self._remember(name, case, "pseudo")

    def _image(self, case: Case, name: str, folder: str) -> Any:
        image = read_channels(case.images, case.id, unit=self.data.spatial_unit)
        data = image.data if image.data.ndim == 4 else image.data[..., None]
        for channel in range(data.shape[3]):
            path = self.folder / f"images{folder}" / f"{name}_{channel:04d}{ENDING}"
            values = np.ascontiguousarray(data[..., channel])
            write_nifti(path, values, image.affine, self.data.spatial_unit)
        return image

    def _same_image(self, first: str, name: str) -> None:
        """Give an image a second name."""
        for channel in range(len(self.data.modality)):
            source, target = (
                self.folder / "imagesTr" / f"{n}_{channel:04d}{ENDING}" for n in (first, name)
            )
            link_or_copy(source, target)

    def _label(self, name: str, classes: np.ndarray, affine: np.ndarray, folder: str) -> None:
        values = np.where(classes == IGNORE_INDEX, self.ignore, classes).astype(np.uint8)
        path = self.folder / folder / f"{name}{ENDING}"
        write_nifti(path, values, affine, self.data.spatial_unit)

    def _remember(self, name: str, case: Case, role: str) -> None:
        self.cases[name] = {"case": case.id, "patient": case.patient, "role": role}
        if case.meta:
            self.cases[name]["meta"] = dict(case.meta)

    def _records(self, folds: list[dict[str, list[str]]]) -> None:
        labels = self.data.labels
        roles = [entry["role"] for entry in self.cases.values()]
        names = {s.name: _number(labels.classes_of(s)) for s in labels.structures}
        order = [written for _, written in labels.region_classes]
        has_ignore = labels.ignore_value is not None or self.undecided > 0
        trained = sum(role in ("labeled", "pseudo") for role in roles)
        header = {
            "name": self.data.name,
            "channel_names": {str(n): name for n, name in enumerate(self.data.modality)},
            "labels": {
                "background": 0,
                **names,
                **({"ignore": self.ignore} if has_ignore else {}),
            },
            **({"regions_class_order": order} if order else {}),
            "numTraining": trained,
            "file_ending": ENDING,
            "overwrite_image_reader_writer": "SimpleITKIO",
            "spatial_unit": self.data.spatial_unit,
        }
        write_json(self.folder / "dataset.json", header)
        write_json(self.folder / SPLITS, folds)
        record = {
            "format": RECORD_FORMAT,
            "labels": labels.as_dict(),
            "cases": self.cases,
        }
        write_json(self.folder / RECORD, record)
        text = resources.files("medssl.nnunet").joinpath(f"{TRAINER}.py.txt")
        path = self.folder / "trainer" / f"{TRAINER}.py"
        write_text(path, text.read_text(encoding="utf-8"))


def _number(classes: tuple[int, ...]) -> int | list[int]:
    return classes[0] if len(classes) == 1 else list(classes)

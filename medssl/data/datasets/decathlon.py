"""Read a Decathlon folder, tolerantly, into one normalized record per scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.decathlon_header import (
    check_count,
    misspelt,
    parse_labels,
    parse_modality,
    parse_unit,
    read_json,
)
from medssl.data.datasets.decathlon_items import Item, ItemReader, found_items
from medssl.data.datasets.extra_images import extra_items
from medssl.data.datasets.registry import CaseRegistry
from medssl.data.images.names import (
    EXTENSIONS,
    image_suffix,
    list_images,
    same_name,
    split_extension,
)
from medssl.errors import MedSSLError

LAYOUT = (
    "a dataset is a folder with dataset.json, imagesTr/ and labelsTr/ (Medical Segmentation "
    "Decathlon layout)"
)


def read_dataset(
    root: Path,
    *,
    extra_unlabeled: Sequence[str] = (),
    patients: str | None = None,
    keep_missing: bool = False,
    allow_outside: bool = False,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> Dataset:
    """Read a dataset folder; nothing is opened but dataset.json.

    Unlabeled are the training items without a label, the list ``unlabeled`` of dataset.json, the
    folder ``imagesUn`` and ``extra_unlabeled``.

    Args:
        root: the folder, or its dataset.json.
        extra_unlabeled: folders, files or globs, relative to the dataset or else to the current
            folder.
        patients: whose scan each case is: a CSV file, see
            :func:`medssl.data.datasets.patient_table.read_patient_table`, or a regular expression
            searched in each case id, whose first group is the patient. Without one, and for cases
            that it does not fit, an item's ``patient`` or ``subject`` key, then what is certain of
            the id, see :mod:`medssl.data.datasets.patient_names`.
        allow_outside: let dataset.json name files outside of its folder; ``extra_unlabeled`` may
            always, being the user's own words.
        keep_missing: keep cases whose listed files do not exist, for a check that reports them.
        regions: label values of structures, in place of the regions that dataset.json states.

    Raises:
        MedSSLError: there is no dataset, dataset.json cannot be understood, or listed files do not
            exist.
    """
    where = _find(Path(root).expanduser())
    root = where.parent
    info, deviations = read_json(where)
    labels, found = parse_labels(info, where, regions)
    modality, more = parse_modality(info, where)
    deviations += found + more + misspelt(info)
    reader = ItemReader(root, where, allow_outside=allow_outside)
    training = _training_items(reader, info, len(modality) or 1, deviations)
    test = _test_items(reader, info, len(modality) or 1, deviations)
    unlabeled = _items(reader, info, "unlabeled", keep_label=False)
    unlabeled += found_items(list_images(root / "imagesUn", EXTENSIONS), len(modality) or 1)
    for text in extra_unlabeled:
        unlabeled += extra_items(root, text, len(modality) or 1)
    if not keep_missing:
        _refuse_missing(reader)
    _note_ghosts(reader)

    registry = CaseRegistry(where)
    named = [registry.add_training(item) for item in training]
    named_test = [registry.add(item) for item in test]
    named_hidden = [c for item in unlabeled if (c := registry.add_unlabeled(item)) is not None]
    modality = _check_channels(named + named_test + named_hidden, modality, where)
    owners = registry.assign_patients(patients)
    cases = owners.of(named)
    without = [c for c in cases if c.label is None]
    if without:
        deviations.append(f"{len(without)} items of 'training' have no label: read as unlabeled")
    return Dataset(
        root=root,
        name=str(info.get("name") or root.resolve().name),
        modality=modality,
        labels=labels,
        training=tuple(c for c in cases if c.label is not None),
        unlabeled=(*without, *owners.of(named_hidden)),
        test=owners.of(named_test),
        spatial_unit=parse_unit(info, where),
        deviations=tuple(deviations + reader.deviations() + owners.notes),
        guess=owners.guess,
    )


def _find(root: Path) -> Path:
    """Return the dataset.json of a folder, or say what is missing."""
    where = root if root.name == "dataset.json" else root / "dataset.json"
    if where.is_file():
        return where
    if not where.parent.is_dir():
        raise MedSSLError("there is no such folder", where=root, fix=f"check the path; {LAYOUT}")
    nested = sorted(where.parent.glob("*/dataset.json"))
    if nested:
        fix = f"did you mean {nested[0].parent}?"
    else:
        fix = (
            f"{LAYOUT}; write dataset.json (docs/own_data.md shows how), bring in another format "
            "with `medssl import`, or name another folder"
        )
    raise MedSSLError("the folder has no dataset.json", where=where.parent, fix=fix)


def _items(
    reader: ItemReader, info: Mapping[str, Any], section: str, *, keep_label: bool = True
) -> list[Item]:
    """Read one list of dataset.json; an absent one is empty."""
    raw = info.get(section)
    if raw is None:
        return []
    if not isinstance(raw, list):
        reader.refuse(
            f"'{section}' is a {type(raw).__name__}, not a list", f'write "{section}": [...]'
        )
    read = (reader.read(e, section, n, keep_label=keep_label) for n, e in enumerate(raw, start=1))
    return [item for item in read if item is not None]


def _training_items(
    reader: ItemReader, info: Mapping[str, Any], channels: int, deviations: list[str]
) -> list[Item]:
    if info.get("training") is not None:
        items = _items(reader, info, "training")
        deviations += check_count(info, "numTraining", len(info["training"]))
    elif isinstance(info.get("dataset"), Mapping):
        deviations.append("the nnU-Net mapping 'dataset' is read as 'training'")
        entries = [
            {**v, "id": k} if isinstance(v, Mapping) else v for k, v in info["dataset"].items()
        ]
        items = _items(reader, {"dataset": entries}, "dataset")
    else:
        deviations.append("there is no list 'training': imagesTr and labelsTr are read (nnU-Net)")
        items = _enumerate(reader, info, channels)
        deviations += check_count(info, "numTraining", len(items))
    extra = _items(reader, info, "validation")
    if extra:
        deviations.append(
            f"{len(extra)} items of 'validation' are read as training cases; "
            "choose validation cases with data.validation"
        )
    return items + extra


def _enumerate(reader: ItemReader, info: Mapping[str, Any], channels: int) -> list[Item]:
    """List imagesTr and labelsTr where dataset.json does not (nnU-Net v2)."""
    ending = str(info.get("file_ending") or "")
    if ending and not image_suffix("x" + ending, EXTENSIONS):
        reader.refuse(
            f"'file_ending' is {ending}, which is not read",
            f"convert the images to one of {', '.join(EXTENSIONS)}",
        )
    images, labels = reader.root / "imagesTr", reader.root / "labelsTr"
    files = list_images(images, (ending.lower(),) if ending else EXTENSIONS)
    if not files:
        reader.refuse(
            f"there is no list 'training' and no image{' ' + ending if ending else ''} in imagesTr",
            'list the cases: "training": [{"image": "imagesTr/a.nii.gz", "label": ...}]',
        )
    others = sorted(set(list_images(images, EXTENSIONS)) - set(files))
    if others:
        reader.note(f"images in imagesTr that do not end in {ending} are not read", others[0].name)
    masks = _by_stem(reader, list_images(labels, EXTENSIONS))
    items = found_items(files, channels)
    # Files that should be channels but were taken for scans of their own: some case is incomplete.
    lone = [i.id.rpartition("_")[0] for i in items if i.id not in masks]
    for stem in sorted(set(lone) & set(masks)):
        if lone.count(stem) != channels:
            reader.refuse(
                f"case '{stem}' has {lone.count(stem)} channel file(s) in imagesTr but "
                f"dataset.json declares {channels} channel(s)",
                f"provide {stem}_0000 to {stem}_{channels - 1:04d}, or mend channel_names",
            )
    found = _match_labels(reader, [i.id for i in items], masks)
    return [Item(i.id, i.images, found.get(i.id)) for i in items]


def _by_stem(reader: ItemReader, labels: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in labels:
        other = found.setdefault(split_extension(path.name)[0], path)
        if other != path:
            reader.refuse(
                f"{other.name} and {path.name} in labelsTr are of one case", "keep one of them"
            )
    return found


def _match_labels(
    reader: ItemReader, ids: Sequence[str], labels: Mapping[str, Path]
) -> dict[str, Path]:
    """Give each case its label: of its name, or of its name in another letter case.

    A label without an image is refused: by a slip in its name a labeled case would silently become
    an unlabeled one.
    """
    found = {case: labels[case] for case in ids if case in labels}
    for stem in labels.keys() - found.keys():
        twins = [i for i in ids if i not in labels and same_name(i) == same_name(stem)]
        if len(twins) != 1 or twins[0] in found:
            reader.refuse(
                f"the label {labels[stem].name} in labelsTr has no image in imagesTr",
                f"name the images {stem}_0000 and so on, or take the label away",
            )
        reader.note("labels are called like their case but for letter case", labels[stem].name)
        found[twins[0]] = labels[stem]
    return found


def _test_items(
    reader: ItemReader, info: Mapping[str, Any], channels: int, deviations: list[str]
) -> list[Item]:
    key = "test" if info.get("test") is not None else "testing"
    folder = reader.root / "imagesTs"
    if info.get(key) is not None:
        items = _items(reader, info, key)
        deviations += check_count(info, "numTest", len(info[key]))
        if key == "testing":
            deviations.append("'testing' is read as 'test'")
        return items
    items = found_items(list_images(folder, EXTENSIONS), channels)
    if items:
        deviations.append(f"there is no list 'test': {len(items)} images of imagesTs are read")
    return items


def _refuse_missing(reader: ItemReader) -> None:
    if reader.missing:
        first = ", ".join(reader.missing[:3])
        count = len(reader.missing)
        more = f" and {count - 3} more" if count > 3 else ""
        reader.refuse(
            f"{count} listed file{'s do' if count > 1 else ' does'} not exist: {first}{more}",
            "complete the download or copy, or take the items out of dataset.json",
        )


def _note_ghosts(reader: ItemReader) -> None:
    for folder in ("imagesTr", "labelsTr", "imagesTs", "imagesUn"):
        for path in sorted((reader.root / folder).glob("._*")):
            reader.note("macOS ghost files '._*' are ignored", f"{folder}/{path.name}")


def _check_channels(
    cases: Iterable[Case], modality: tuple[str, ...], where: Path
) -> tuple[str, ...]:
    """Refuse a scan with a wrong number of channel files; name channels that have no name."""
    cases = list(cases)
    if not modality:
        count = max((len(c.images) for c in cases), default=1)
        modality = tuple(f"channel {n}" for n in range(count))
    for case in cases:
        # One file may hold all channels in a fourth dimension; its header tells, later.
        if len(case.images) not in (1, len(modality)):
            raise MedSSLError(
                f"case '{case.id}' has {len(case.images)} image files but dataset.json declares "
                f"{len(modality)} channel{'s' if len(modality) > 1 else ''}",
                where=where,
                fix="list one file per channel, or mend 'modality'",
            )
    return modality

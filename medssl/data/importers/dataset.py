"""Convert a source of some format to a Decathlon folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl import plugins
from medssl.data.importers import (  # noqa: F401 - each registers its format
    acdc,
    dicom,
    nnunet,
    oct,  # noqa: A004
    sitk,
    ssl4mis,
    sts,
    toothfairy,
)
from medssl.data.importers.case_writer import ImportResult
from medssl.data.importers.importer import REGISTRY, Importer
from medssl.data.importers.plain_images import ImagesSettings, join_dataset
from medssl.data.importers.pseudonyms import PatientSettings
from medssl.data.importers.write import write_dataset
from medssl.errors import MedSSLError, did_you_mean
from medssl.paths import AnyPath
from medssl.progress import Display, shown_on
from medssl.settings.yaml_file import validate_settings


def list_formats() -> dict[str, str]:
    """Return one line about each format that can be imported.

    Example:
        >>> medssl.list_formats()["nnunet"]
        'raw nnU-Net folder, version 1 or 2 (dataset.json, imagesTr, labelsTr, imagesTs)'
    """
    for name in plugins.offered("importer"):
        plugins.look_up("importer", name)
    return {name: importer.summary for name, importer in sorted(REGISTRY.items())}


def import_dataset(
    format: str,  # noqa: A002 - the word the command uses
    source: AnyPath,
    dataset: AnyPath,
    *,
    options: Mapping[str, Any] | Sequence[str] = (),
    display: Display | None = None,
) -> ImportResult:
    """Convert a source of some format to a Decathlon folder, check it, and record where it is from.

    Args:
        format: one of :func:`list_formats`.
        source: the file or folder to read; it is never changed.
        dataset: folder to write; it must not exist or be empty. ``images`` may name a dataset
            that exists: the images join it as unlabeled.
        options: the format's options, as a mapping or as ``["spacing=0.3", ...]``.
        display: where to show progress.

    Raises:
        MedSSLError: unknown format or option, a source of another format, a broken case. Nothing
            is left behind then.

    Example:
        >>> labels = {"labels": "1:arc,2:wall,3:node"}
        >>> result = medssl.import_dataset("images", "data/imagesTs", "more", options=labels)
        >>> result.unlabeled
        2
    """
    importer = _importer(format)
    source, dataset = (Path(p).expanduser() for p in (source, dataset))
    if not source.exists():
        raise MedSSLError("there is no such file or folder", where=source, fix="check the path")
    source, dataset = source.resolve(), dataset.resolve()
    if dataset.is_relative_to(source) and source.is_dir():
        raise MedSSLError(
            "the dataset would lie inside its own source",
            where=dataset,
            fix="name a folder outside the source",
        )
    given = _parse(options)
    settings = validate_settings(importer.Settings, given, where="--option")
    if isinstance(settings, PatientSettings):
        settings = settings.beside(dataset)
    said = {k: str(v) for k, v in given.items() if k != "patient_key"}  # its place is private
    origin = {"format": format, "options": said}
    display = display or Display(quiet=True)
    if isinstance(settings, ImagesSettings) and (dataset / "dataset.json").is_file():
        return join_dataset(source, dataset, settings, origin=origin, display=display)
    with shown_on(display):
        plan = importer.plan(source, settings)
    if not plan.cases:
        raise MedSSLError(
            f"there is nothing of the format '{format}' here",
            where=source,
            fix=f"'{format}' is {importer.summary}; check the folder, or name another format",
        )
    with display.counting(f"importing {format}", len(plan.cases)) as done:
        return write_dataset(plan, source, dataset, settings, origin=origin, on_case=done)


def _importer(name: str) -> Importer:
    if name not in REGISTRY:
        plugins.look_up("importer", name)
    if name in REGISTRY:
        return REGISTRY[name]
    listed = "".join(f"\n    {n:12} {summary}" for n, summary in list_formats().items())
    raise MedSSLError(
        f"'{name}' is no format that can be imported",
        fix=did_you_mean(name, REGISTRY, listing=f"The formats are:{listed}"),
    )


def _parse(options: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(options, Mapping):
        return dict(options)
    given: dict[str, Any] = {}
    for text in options:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise MedSSLError(
                f"cannot read the option {text!r}",
                where="--option",
                fix="write --option KEY=VALUE, for instance --option spacing=0.3,0.3,0.3",
            )
        given[key.strip()] = value.strip()
    return given

"""Check a dataset, write what was found, and repair a copy of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.data.checks.read_case import Painter
from medssl.data.checks.repaired_copy import write_repaired
from medssl.data.checks.run import CheckReport, check_dataset
from medssl.data.datasets.case import Dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.errors import MedSSLError
from medssl.files import write_json, write_text
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.settings.spec import DataSpec
from medssl.settings.specs import load_spec


@dataclass(frozen=True)
class CheckResult:
    """What a check found, and what a repair made of it.

    Attributes:
        report: of the dataset.
        repairs: what was mended in the copy, one line each.
        repaired: report of the copy, if one was asked for.
    """

    report: CheckReport
    repairs: tuple[str, ...] = ()
    repaired: CheckReport | None = None

    @property
    def can_train(self) -> bool:
        """Whether training can start: on the copy, if there is one."""
        return (self.repaired or self.report).can_train

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        content = self.report.to_json()
        if self.repaired is not None:
            content["repair"] = {"done": list(self.repairs), **self.repaired.to_json()}
        return content


def check(
    dataset: AnyPath,
    *,
    spec: AnyPath | None = None,
    repair: AnyPath | None = None,
    json_file: AnyPath | None = None,
    html_file: AnyPath | None = None,
    allow_outside: bool = False,
    patients: AnyPath | None = None,
    unlabeled: Sequence[str] = (),
    display: Display | None = None,
) -> CheckResult:
    """Find everything wrong with a dataset before training, and mend a copy of it.

    Args:
        dataset: a Decathlon folder.
        spec: name or file of the data spec that training will use; default: what dataset.json says.
        repair: folder to write a repaired copy to; the dataset itself is never changed.
        json_file: file to write the findings to.
        html_file: page to write, with a picture of every case.
        allow_outside: let dataset.json name files outside of its folder, as a recipe's
            ``data.allow_outside`` does. A repaired copy holds them inside.
        patients: whose scan each case is, as a recipe's ``data.patients`` says.
        unlabeled: further unlabeled images, as a recipe's ``data.unlabeled`` names them.

    Returns:
        The findings. A broken file is one of them and does not stop the check of the others.

    Raises:
        MedSSLError: no dataset.json that can be understood, an unknown spec, or an output that
            cannot be written.

    Example:
        >>> found = medssl.check("data", json_file="check.json")
        >>> found.can_train, found.report.count("error")
        (True, 0)
    """
    display = display or Display(quiet=True)
    for path in (json_file, html_file):
        _check_target(None if path is None else Path(path))
    loaded = None if spec is None else load_spec(spec)
    whose = None if patients is None else os.fspath(patients)
    data = read_dataset(
        Path(dataset),
        extra_unlabeled=unlabeled,
        keep_missing=True,
        allow_outside=allow_outside,
        patients=whose,
    )
    report = _read(data, loaded, _painter(html_file), display, "checking")
    result = CheckResult(report)
    if repair is not None:
        with display.counting("writing the repaired copy", len(report.facts)) as done:
            lines = write_repaired(report, Path(repair), on_progress=done)
        copy = read_dataset(Path(repair), keep_missing=True, patients=whose)
        again = _read(copy, loaded, None, display, "checking the copy")
        result = CheckResult(report, tuple(lines), again)
    if json_file is not None:
        write_json(Path(json_file), result.to_json())
    if html_file is not None:
        from medssl.reports.check_page import render_check

        page = render_check(report, repairs=result.repairs, repaired=result.repaired)
        write_text(Path(html_file), page)
    return result


def _painter(html_file: AnyPath | None) -> Painter | None:
    """Return what draws the pictures of a page, if one is written."""
    if html_file is None:
        return None
    from medssl.reports.thumbnails import draw_thumbnail

    return draw_thumbnail


def _read(
    dataset: Dataset, spec: DataSpec | None, painter: Painter | None, display: Display, title: str
) -> CheckReport:
    total = len(dataset.training) + len(dataset.unlabeled) + len(dataset.test)
    with display.counting(title, total) as done:
        return check_dataset(dataset, spec=spec, painter=painter, on_progress=done)


def _check_target(path: Path | None) -> None:
    """Refuse a file that cannot be written before anything is read."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise MedSSLError(
            "the file cannot be written there: "
            + ("it is a folder" if path.is_dir() else "its folder does not exist"),
            where=path,
            fix="name a file in an existing folder",
        )

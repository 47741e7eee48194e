"""The result of a check as one HTML page with a picture of every case."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.checks.run import CheckReport
from medssl.reports.check_table import describe_memory, relative, verdict
from medssl.reports.render import render
from medssl.reports.thumbnails import structure_color

MAX_PICTURES = 400
"""So many cases are drawn, those with problems first: a page must open in a browser."""

_ORDER = {"error": 0, "warning": 1, "note": 2}


def render_check(
    report: CheckReport, *, repairs: Sequence[str] = (), repaired: CheckReport | None = None
) -> str:
    """Return a page that needs no other file and no network.

    Args:
        report: of the dataset; its facts hold the pictures.
        repairs: what was mended in a copy.
        repaired: report of that copy.
    """
    dataset = report.dataset
    rows = [
        {
            "severity": p.severity,
            "file": relative(p.file, dataset.root),
            "what": p.what,
            "fix": p.fix,
            "repairable": report.is_repairable(p),
            "case": p.case,
        }
        for p in report.problems
    ]
    cases = _cases(report)
    return render(
        "check.html",
        name=dataset.name,
        root=str(dataset.root),
        verdict=verdict(report),
        can_train=report.can_train,
        counts={s: report.count(s) for s in _ORDER},
        problems=rows,
        summary=_summary(report),
        structures=_structures(report),
        unit=dataset.spatial_unit.replace("um", "µm"),
        shifts=[_shift(s.to_json()) for s in report.shifts],
        cases=cases[:MAX_PICTURES],
        left_out=max(0, len(cases) - MAX_PICTURES),
        repairs=list(repairs),
        repaired=None if repaired is None else _repaired(repaired),
    )


def _repaired(report: CheckReport) -> dict[str, Any]:
    remaining = [p for p in report.problems if p.severity == "error"]
    return {
        "root": str(report.dataset.root),
        "verdict": verdict(report),
        "remaining": [
            {"file": relative(p.file, report.dataset.root), "what": p.what} for p in remaining
        ],
    }


def _summary(report: CheckReport) -> list[tuple[str, str]]:
    read = [f for f in report.facts if f.shape]
    dataset, unit = report.dataset, report.dataset.spatial_unit
    roles = Counter(f.role for f in report.facts)
    patients = len({f.case.patient for f in report.facts})
    rows = [
        ("cases", ", ".join(f"{n} {role}" for role, n in roles.items()) + f"; {patients} patients"),
        ("channels", ", ".join(dataset.modality)),
    ]
    if dataset.labels.regions:
        named = (f"{region.name} ({region.label})" for region in dataset.labels.regions)
        rows.append(("regions of labels", ", ".join(named)))
    if read:
        rows += [
            ("voxels", _range(np.array([f.shape for f in read]), "{:.0f}")),
            (f"spacing ({unit})", _range(np.array([f.spacing for f in read]), "{:.3g}")),
            (
                "stored axes",
                ", ".join(f"{axes} {n}" for axes, n in Counter(f.axes for f in read).most_common()),
            ),
        ]
    levels = [f.levels for f in read if f.levels]
    if levels:
        low, high = min(v[0] for v in levels), max(v[6] for v in levels)
        rows.append(("intensities", f"{low:.4g} to {high:.4g} (0.5 to 99.5 %, over all cases)"))
    return [*rows, ("memory", describe_memory(report))]


def _range(table: np.ndarray, style: str) -> str:
    """Return median and range of each axis: ``35 x 50 x 36 (31-43 x 40-59 x 26-47)``."""
    middle, low, high = np.median(table, 0), table.min(0), table.max(0)
    text = " × ".join(style.format(v) for v in middle)
    if (low == high).all():
        return text
    spans = (f"{style.format(a)}–{style.format(b)}" for a, b in zip(low, high, strict=True))
    return f"{text} ({' × '.join(spans)})"


def _structures(report: CheckReport) -> list[dict[str, Any]]:
    """Return one row per declared structure: in how many cases, and how large."""
    labels = report.dataset.labels
    labeled = [f for f in report.facts if f.role == "labeled"]
    rows = []
    for value, name in zip(labels.values[1:], labels.names[1:], strict=True):
        sizes = [
            f.structures[value].voxels * float(np.prod(f.spacing))
            for f in labeled
            if value in f.structures
        ]
        rows.append(
            {
                "value": value,
                "name": name,
                "cases": f"{len(sizes)} of {len(labeled)}",
                "median": f"{np.median(sizes):,.0f}" if sizes else "–",
                "range": f"{min(sizes):,.0f} – {max(sizes):,.0f}" if sizes else "–",
            }
        )
    return rows


def _shift(content: dict[str, Any]) -> dict[str, Any]:
    top = max([*content["cases"].values(), 1e-9])
    return {
        **content,
        "cases": [(n, v, round(100 * v / top)) for n, v in list(content["cases"].items())[:10]],
        "features": list(content["features"].items())[:5],
    }


def _cases(report: CheckReport) -> list[dict[str, Any]]:
    problems: dict[str, list[str]] = defaultdict(list)
    for p in report.problems:
        problems[p.case].append(p.severity)
    drawn = [f for f in report.facts if f.picture is not None or problems[f.case.id]]

    def rank(facts: CaseFacts) -> int:
        return min((_ORDER[s] for s in problems[facts.case.id]), default=3)

    return [
        {
            "id": f.case.id,
            "role": f.role,
            "worst": min(problems[f.case.id], key=lambda s: _ORDER[s], default=""),
            "picture": base64.b64encode(f.picture).decode() if f.picture else "",
            "details": _details(f),
            "legend": [(structure_color(v), v) for v in sorted(f.structures)],
        }
        for f in sorted(drawn, key=rank)
    ]


def _details(facts: CaseFacts) -> str:
    if not facts.shape:
        return "could not be read"
    shape = " × ".join(str(n) for n in facts.shape)
    return f"{shape} voxels of {' × '.join(f'{s:.3g}' for s in facts.spacing)}, {facts.axes}"

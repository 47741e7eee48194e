"""What the sites say of their models, side by side: means, gains, failures, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.comparison.verdict import judge
from medssl.errors import MedSSLError
from medssl.evaluation.failures import upper_bound
from medssl.evaluation.statistics import Interval, interval_of_moments
from medssl.federation.agreed import read_agreed, read_server_keys
from medssl.federation.create import KEYS
from medssl.federation.figures import (
    ALL,
    EXPERIMENTS,
    Moments,
    SiteFigures,
    figures_name,
    read_figures,
    together,
)
from medssl.federation.messages import Refused
from medssl.files import write_json, write_text
from medssl.paths import AnyPath

RESULT = "verdict"
EVERYONE = "all sites"


@dataclass(frozen=True)
class FederatedVerdict:
    """What :func:`federate_verdict` found.

    Attributes:
        result: as written to ``verdict.json``.
        text: as written to ``verdict.md``.
        path: of the latter.
    """

    result: dict[str, Any]
    text: str
    path: Path


def federate_verdict(folder: AnyPath, server: AnyPath) -> FederatedVerdict:
    """Put together what the sites say of their models, into the server's folder.

    Args:
        folder: where the sites meet, with what `medssl federate figures` wrote.
        server: the server's own folder.

    Raises:
        MedSSLError: no site has said anything that is authentic.
    """
    home = Path(server)
    keys = read_server_keys(home / KEYS)
    agreed = read_agreed(home, keys.federation)
    said: dict[str, SiteFigures] = {}
    refused: dict[str, str] = {}
    silent = []
    for site in agreed.sites:
        path = Path(folder) / figures_name(site)
        try:
            secret = bytes.fromhex(keys.keys[site])
            said[site] = read_figures(path, site, secret, keys.federation)
        except FileNotFoundError:
            silent.append(site)
        except Refused as why:
            refused[site] = str(why)
    if not said:
        raise MedSSLError(
            "no site has said how its models did",
            where=Path(folder),
            fix="at each site: medssl federate figures",
        )
    result = {"sites": summarized(said), "refused": refused, "silent": silent}
    text = as_text(result)
    write_json(home / f"{RESULT}.json", result)
    write_text(home / f"{RESULT}.md", text)
    return FederatedVerdict(result, text, home / f"{RESULT}.md")


def summarized(said: Mapping[str, SiteFigures]) -> dict[str, Any]:
    """Return by site, and for all together, what is said: experiments and gains with intervals."""
    found = {site: _of_one(figures) for site, figures in said.items()}
    if len(said) > 1:
        everyone = list(said.values())
        shared = [name for name in EXPERIMENTS if all(name in f.dice for f in everyone)]
        gains = [name for name in everyone[0].gains if all(name in f.gains for f in everyone)]
        patients = sum(f.patients for f in everyone)
        found[EVERYONE] = {
            "patients": patients,
            "experiments": {
                name: _experiment(
                    {
                        key: together([f.dice[name][key] for f in everyone])
                        for key in everyone[0].dice[name]
                        if all(key in f.dice[name] for f in everyone)
                    },
                    sum(f.failed[name] for f in everyone),
                    patients,
                    "; ".join(dict.fromkeys(f.trained[name] for f in everyone)),
                )
                for name in shared
            },
            "gains": {name: _gain(together([f.gains[name] for f in everyone])) for name in gains},
        }
    return found


def as_text(result: Mapping[str, Any]) -> str:
    """Return the verdict as Markdown."""
    lines = ["# The verdict across sites", ""]
    lines += ["| site | experiment | patients | Dice | failed | trained |"]
    lines += ["|---|---|---|---|---|---|"]
    for site, found in result["sites"].items():
        for name, one in found["experiments"].items():
            failed = f"{one['failed']} (of further ones at most {one['at_most']:.0%})"
            dice = _text(one["dice"].get(ALL))
            lines.append(
                f"| {site} | {name} | {found['patients']} | {dice} | {failed} | {one['trained']} |"
            )
    gains = [
        f"| {site} | {name} | {_text(gain)} | {gain['evidence']} |"
        for site, found in result["sites"].items()
        for name, gain in found["gains"].items()
    ]
    if gains:  # of one model alone there is none
        lines += ["", "| site | gain | mean | evidence of |", "|---|---|---|---|", *gains]
    lines += ["", "Means over patients with Student's t interval (95 %), over all structures."]
    lines += [f"{site} was refused: {why}." for site, why in result["refused"].items()]
    lines += [f"Nothing was said by {site}." for site in result["silent"]]
    return "\n".join(lines) + "\n"


def _of_one(figures: SiteFigures) -> dict[str, Any]:
    return {
        "patients": figures.patients,
        "experiments": {
            name: _experiment(
                figures.dice[name], figures.failed[name], figures.patients, figures.trained[name]
            )
            for name in EXPERIMENTS
            if name in figures.dice
        },
        "gains": {name: _gain(moments) for name, moments in figures.gains.items()},
    }


def _experiment(
    dice: Mapping[str, Moments], failed: int, patients: int, trained: str
) -> dict[str, Any]:
    return {
        "dice": {key: _interval(moments, (0.0, 1.0)) for key, moments in dice.items()},
        "failed": failed,
        "at_most": upper_bound(min(failed, patients), patients),
        "trained": trained,
    }


def _gain(moments: Moments) -> dict[str, Any]:
    interval = _interval(moments, (-1.0, 1.0))
    low, high = interval["low"], interval["high"]
    evidence = "no verdict" if low is None else judge(low, high)
    return {**interval, "evidence": evidence}


def _interval(moments: Moments, bounds: tuple[float, float]) -> dict[str, Any]:
    found: Interval = interval_of_moments(moments.mean, moments.variance, moments.n, bounds=bounds)
    return {
        "n": found.n,
        "mean": found.mean,
        "low": None if found.none else found.low,
        "high": None if found.none else found.high,
    }


def _text(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "withheld"
    if value["low"] is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"

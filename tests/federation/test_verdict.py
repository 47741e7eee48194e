"""Figures that sites send, and what is made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from federations import begin
from run_folders import write_run

from medssl import cli
from medssl.errors import MedSSLError
from medssl.evaluation.statistics import mean_interval, paired_interval
from medssl.federation.create import Created
from medssl.federation.figures import federate_figures, figures_name, moments_of, together
from medssl.federation.verdict import federate_verdict

RNG = np.random.default_rng(7)
LOCAL = {"A": RNG.uniform(0.6, 0.8, 6).round(4), "B": RNG.uniform(0.5, 0.7, 9).round(4)}
GAINS = {"A": RNG.normal(0.05, 0.01, 6).round(4), "B": RNG.normal(0.0, 0.03, 9).round(4)}


def runs_of(folder: Path, site: str, few: int | None = None) -> dict[str, Path]:
    """Write two evaluated runs of a site: alone, and together with the others."""
    local, gains = LOCAL[site][:few], GAINS[site][:few]
    found = {}
    for name, scores in (("local", local), ("federated", local + gains)):
        dice = {"left": scores.tolist(), "right": (scores + 0.1).tolist()}
        found[name] = write_run(folder / site / name, dice, method="self_training")
    return found


@pytest.fixture
def found(tmp_path: Path) -> Created:
    return begin(tmp_path, "A", "B", "C", labels=["background", "left", "right"])


def test_figures_say_what_all_patients_in_one_list_would(found: Created, tmp_path: Path) -> None:
    for site in "AB":
        runs = [f"{name}={path}" for name, path in runs_of(tmp_path, site).items()]
        options = [o for one in runs for o in ("--run", one)]
        key = str(found.keys[site])
        assert cli.run(["federate", "figures", str(found.folder), "--key", key, *options]) == 0
    text = (found.folder / figures_name("A")).read_text()
    said = re.sub(r"[0-9a-f]{32,}", "", text)  # any hash may happen to hold "c00"
    for word in ("c00", str(tmp_path), "toy", "u0"):
        assert word not in said, "no case, path, dataset"
    assert cli.run(["federate", "verdict", str(found.folder), "--server", str(found.server)]) == 0
    result = json.loads((found.server / "verdict.json").read_text())
    assert result["silent"] == ["C"]
    assert result["refused"] == {}
    sites = result["sites"]
    both = np.concatenate([LOCAL["A"], LOCAL["B"]]) + 0.05  # of left and right
    gains = np.concatenate([GAINS["A"], GAINS["B"]])
    for site, values, gain in (
        ("A", LOCAL["A"] + 0.05, GAINS["A"]),
        ("all sites", both, gains),
    ):
        expected = mean_interval(values)
        dice = sites[site]["experiments"]["local"]["dice"]["all"]
        assert [dice[k] for k in ("n", "mean", "low", "high")] == pytest.approx(
            [expected.n, expected.mean, expected.low, expected.high], abs=2e-5
        )
        expected = paired_interval(gain[None])
        own = sites[site]["gains"]["federated - local"]
        assert [own[k] for k in ("mean", "low", "high")] == pytest.approx(
            [expected.mean, expected.low, expected.high], abs=2e-4
        )
    assert sites["A"]["gains"]["federated - local"]["evidence"] == "gain"
    assert sites["B"]["gains"]["federated - local"]["evidence"] == "none"
    assert sites["B"]["experiments"]["local"]["trained"] == "self_training, 100 iterations"
    text = (found.server / "verdict.md").read_text()
    assert "| A | local | 6 |" in text
    assert "Nothing was said by C." in text
    assert "| A | federated - local |" in text


def test_of_few_patients_nothing_leaves_a_site(found: Created, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "A", few=4)
    with pytest.raises(MedSSLError, match="of fewer than 5 nothing leaves"):
        federate_figures(found.folder, found.keys["A"], runs)
    assert not (found.folder / figures_name("A")).exists()
    federate_figures(found.folder, found.keys["A"], runs, allow_few=True)
    assert federate_verdict(found.folder, found.server).result["sites"]["A"]["patients"] == 4
    federate_figures(found.folder, found.keys["A"], {"local": runs["local"]}, allow_few=True)
    assert "| gain |" not in federate_verdict(found.folder, found.server).text, "one model alone"
    rare = np.array([0.5, np.nan, 0.7, np.nan, 0.6, np.nan])
    assert moments_of(rare, allow_few=False) is None, "a structure that four patients have"
    assert moments_of(rare, allow_few=True) is not None


def test_figures_of_another_key_or_form_are_refused(found: Created, tmp_path: Path) -> None:
    path = federate_figures(found.folder, found.keys["A"], runs_of(tmp_path, "A"))
    with pytest.raises(MedSSLError, match="there is no experiment best"):
        federate_figures(found.folder, found.keys["A"], {"best": tmp_path})
    good = path.read_bytes()
    path.rename(found.folder / figures_name("B"))
    with pytest.raises(MedSSLError, match="no site has said"):
        federate_verdict(found.folder, found.server)
    path.write_bytes(good)
    refused = federate_verdict(found.folder, found.server).result["refused"]
    assert refused == {"B": "it is not authenticated by the key of B"}
    path.write_bytes(good.replace(b'"patients": 6', b'"patients": 7'))
    with pytest.raises(MedSSLError, match="no site has said"):
        federate_verdict(found.folder, found.server)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    values = RNG.uniform(0, 1, 30)
    parts = [moments_of(part, allow_few=True) for part in np.split(values, [3, 11])]
    whole = together([part for part in parts if part is not None])
    assert (whole.n, whole.mean) == (30, pytest.approx(values.mean(), abs=1e-6))
    assert whole.variance == pytest.approx(values.var(ddof=1), abs=1e-5)

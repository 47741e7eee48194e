"""Choose the scans to label next, and make a folder of them for a labeling program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl.data.datasets.case import Case
from medssl.errors import MedSSLError, did_you_mean
from medssl.files import all_or_nothing, refuse_filled
from medssl.inference.assessment import Assessment
from medssl.inference.assessment_files import assessment_file, read_assessment
from medssl.inference.folder import predict_files
from medssl.inference.identity import weights_sha256
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.paths import AnyPath, as_paths
from medssl.progress import Display
from medssl.reports.round_page import RoundWords, write_round_page
from medssl.rounds.choose import RULES, Candidates, Rule, as_points, choose
from medssl.rounds.editors import write_editor_files
from medssl.rounds.pool import UNLABELED, Known, PoolScan, find_pool, what_is_known
from medssl.rounds.record import Round, write_round
from medssl.rounds.write import draft, write_slices
from medssl.runs.folder import open_run
from medssl.runs.members import is_crossval, members_of
from medssl.workflows.open_predictor import open_predictor

DEFAULT_RULE: Rule = "spread"
"""No rule beats drawing (docs/next.md), and labels that were drawn count in a verdict."""
KEPT = "next"
"""Folder of a run in which what it says of a pool is kept, so that it is not said twice."""


@dataclass(frozen=True)
class NextLabels:
    """A round of labeling.

    Attributes:
        path: its folder.
        dataset: folder of the dataset that the labels are for.
        round: what ``round.json`` says.
        notes: what was left out of the pool, and why.
    """

    path: Path
    dataset: Path
    round: Round
    notes: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the scans, the most wanted first."""
        return tuple(scan.id for scan in self.round.scans)


def next_labels(
    run: AnyPath,
    output: AnyPath,
    *,
    pool: AnyPath | Sequence[AnyPath] = UNLABELED,
    count: int = 4,
    rule: Rule = DEFAULT_RULE,
    seed: int = 0,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    display: Display | None = None,
) -> NextLabels:
    """Choose the scans that are worth a label next, and write a folder to label them in.

    Each scan gets a folder with its image, its bytes unchanged, and a draft label on its grid;
    ``round.html`` and ``slices.csv`` say where the draft is in doubt. Test patients, and copies of
    scans that have a label, are never chosen. :func:`medssl.accept` takes the labels back.

    Args:
        run: a run folder, or the folder of a cross-validation, whose folds draw the drafts
            together.
        output: folder of the round; it must not exist or be empty.
        pool: ``unlabeled`` for the scans of the run's dataset that have no label, or folders and
            image files.
        count: how many scans.
        rule: ``spread``, ``random``, ``uncertainty``, ``diversity`` or ``combined``, see
            :func:`medssl.rounds.choose.choose`.
        seed: of ``random`` and ``spread``.
        checkpoint, device, precision: as for `predict`.
        overwrite: predict the pool again, whatever was predicted of it before.
        display: shows progress.

    Raises:
        MedSSLError: no run, no scan to choose, or the folder holds something. Nothing is left
            behind then.

    Example:
        >>> found = medssl.next_labels("runs/mine", "round1", count=1)
        >>> len(found.ids), (found.path / found.ids[0] / "label.nii.gz").is_file()
        (1, True)
    """
    display = display or Display(quiet=True)
    source, folder = Path(run), Path(output)
    _check(source, folder, rule, count)
    known = what_is_known(source, display)
    scans, notes = find_pool(as_paths(pool), known, display)
    settings = PredictSettings(
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        assess=True,
        overwrite=overwrite,
    )
    predictor, _ = open_predictor(source, settings)
    told: dict[str, Assessment] = {}
    if rule != "random":
        told, failed = _ask(predictor, scans, known.labeled, source / KEPT, settings, display)
        notes += failed
        scans = [scan for scan in scans if scan.case.id in told]
        if not scans:
            raise MedSSLError(
                "no scan of the pool could be predicted" + "".join(f"\n  {n}" for n in notes[:5]),
                where=source,
                fix="name scans like those that the model was trained on",
            )
    if len(scans) < count:
        notes.append(f"{count} scans are wanted and {len(scans)} can be chosen")
    order = choose(rule, _candidates(scans, known, told), count, seed=seed)
    chosen = [(scans[i], _why(rule, told.get(scans[i].case.id))) for i in order]
    empty = Round.of(known.dataset, predictor.source, weights_sha256(predictor.model), rule, seed)
    with all_or_nothing(folder, "the round") as building:
        written = _write(empty, chosen, predictor, building, folder.name, notes, display)
    return NextLabels(folder, known.dataset.root, written, tuple(notes))


def _write(
    empty: Round,
    chosen: Sequence[tuple[PoolScan, str]],
    predictor: Predictor,
    folder: Path,
    name: str,
    notes: Sequence[str],
    display: Display,
) -> Round:
    """Draft the labels of the chosen scans, and write all that belongs to a round."""
    drafted = []
    with display.counting("drafting labels", len(chosen)) as done:
        for scan, why in chosen:
            drafted.append(draft(scan, why, predictor, folder))
            done(scan.case.id)
    found = replace(empty, scans=tuple(one.scan for one in drafted)).sealed()
    write_round(found, folder)
    write_slices(found.scans, folder)
    write_editor_files(found.labels, folder)
    words = RoundWords(name, found.model, found.rule, found.labels, notes)
    write_round_page(folder, words, [one.shown for one in drafted])
    return found


def _check(source: Path, folder: Path, rule: str, count: int) -> None:
    """Refuse what cannot work before anything is read.

    Raises:
        MedSSLError: names it.
    """
    if rule not in RULES:
        raise MedSSLError(
            f"there is no rule {rule!r}", where="--rule", fix=did_you_mean(rule, RULES)
        )
    if count < 1:
        raise MedSSLError(f"{count} scans are asked for", where="--count", fix="ask for 1 or more")
    refuse_filled(folder, "the round")
    if is_crossval(source):
        members_of(source)
    else:
        open_run(source)


def _ask(
    predictor: Predictor,
    scans: Sequence[PoolScan],
    labeled: Sequence[Case],
    folder: Path,
    settings: PredictSettings,
    display: Display,
) -> tuple[dict[str, Assessment], list[str]]:
    """Predict the pool and the labeled scans, or recall what was predicted of them.

    Returns:
        What each prediction says of itself, by id, and a line for each scan that failed.
    """
    cases = [*(scan.case for scan in scans), *labeled]
    with display.counting_parts("predicting", len(cases)) as (done, window):
        results = predict_files(
            predictor,
            [(case.id, case.images) for case in cases],
            folder,
            settings,
            on_progress=done,
            on_window=window,
        )
    told, notes = {}, []
    for result in results:
        found = read_assessment(assessment_file(folder, result.case_id))
        if result.error is not None or found is None:
            why = (result.error or "nothing is known of its prediction").splitlines()[0]
            notes.append(f"{result.case_id} is left out: {why}")
        else:
            told[result.case_id] = found
    return told, notes


def _candidates(scans: Sequence[PoolScan], known: Known, told: dict[str, Assessment]) -> Candidates:
    features = [told[s.case.id].features if s.case.id in told else {} for s in scans]
    there = [told[c.id].features for c in known.labeled if c.id in told]
    points, labeled = as_points(features, there)
    return Candidates(
        errors=np.array([1 - _quality(told.get(s.case.id)) for s in scans]),
        points=points,
        labeled=labeled,
        patients=[s.case.patient for s in scans],
        labeled_patients=frozenset(c.patient for c in known.dataset.training),
    )


def _quality(told: Assessment | None) -> float:
    """Return the expected Dice; 0 where nothing is seen."""
    return (told.quality or 0.0) if told is not None else 0.0


def _why(rule: Rule, told: Assessment | None) -> str:
    """Say in a few words why a scan is to be labeled."""
    if told is None:
        return "drawn at random"
    seen = "nothing was found" if told.quality is None else f"expected Dice {told.quality:.2f}"
    why = {
        "uncertainty": "the lowest expected Dice",
        "diversity": "many scans are like it and no labeled one is",
        "combined": "scans like it are predicted badly and no labeled one is like it",
        "spread": "drawn at random, far from the others drawn",
        "random": "drawn at random",
    }[rule]
    return f"{seen}; {why}"

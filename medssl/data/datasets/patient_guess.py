"""Notice ids that only look like several scans of one patient: ``001_1`` and ``001_2``.

Nothing is decided here. A guess is a pattern for ``data.patients`` that would put such scans
together; the check of a dataset shows it, and a plan writes it into the recipe, where the user
accepts or corrects it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from medssl.data.datasets.patient_names import DATE, HOW, MARKERS, MOST, SEPARATOR, subject_of
from medssl.data.images.names import same_person

EACH_ITS_OWN = "(.+)"
"""The pattern that says that every scan is of another patient."""

MOST_WORDS, MOST_STARTS = 24, 4
"""A pattern of more words is none that a person could check."""

_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_WEAK = (
    rf"(?:\d{{1,2}}[-_. ]?)?{_MONTH}[-_. ]?(?:19|20)\d\d|"
    r"(?:scan|exam|study|series|run|rep|acq|rec|week|wk|day|month|mo|year|yr|mr|ct|tp|m|d|w|y|t|v|s)"
    r"[-_]?\d{1,3}|d\d{4}|before|after|bl|fu|first|second|third|new|old"
    r"|术前|术后|治疗前|治疗后|基线|随访|第[\d一二三四五六七八九十]+[次期]|vor|nach|avant|apr[eè]s"
)
_GLUED = r"(?:scan|exam|visit|session|sess|ses|time|tp|run|rep|v|t|m)\d{1,2}|pre|post|bl|fu\d?"
"""Words that stand behind a number without anything between."""
_WORDS = "|".join([*MARKERS.values(), _WEAK, HOW])
_COUNTER = r"\d{1,3}"
_MARKERS = "|".join(pattern for kind, pattern in MARKERS.items() if kind != "date")


@dataclass(frozen=True)
class PatientGuess:
    """What ids look like.

    Attributes:
        pattern: for ``data.patients``; its first group is the patient.
        cases: how many ids it would put together with others.
        patients: how many patients these would be.
        examples: a few ids of one of them.
    """

    pattern: str
    cases: int
    patients: int
    examples: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is seen, for a message."""
        patients = f"{self.patients} patient" + ("s" if self.patients > 1 else "")
        return (
            f"{self.cases} ids look like scans of {patients} (such as "
            f"{' and '.join(self.examples)}), but nothing says so"
        )

    @property
    def fix(self) -> str:
        """What to do about it, for a message."""
        return (
            f"if they are, write data.patients: '{self.pattern}' into the recipe (or a CSV file "
            'case,patient, or "patient" into the items of dataset.json); if each scan is of '
            f"another patient, data.patients: '{EACH_ITS_OWN}'"
        )


def guess_patients(
    patients: Mapping[str, str], said: Mapping[str, str] | None = None
) -> PatientGuess | None:
    """Return the guess that puts most scans together, or None where ids look like one patient each.

    Args:
        patients: of each id, as its name tells for certain.
        said: of each id of which the dataset or the user says it; no guess contradicts that.
    """
    found = [_judge(pattern, patients) for pattern in _patterns(patients)]
    fitting = [g for g in found if g is not None and not _contradicts(g, said or {})]
    return max(fitting, key=lambda guess: guess.cases, default=None)


def _contradicts(guess: PatientGuess, said: Mapping[str, str]) -> bool:
    found = ((re.match(guess.pattern, name), patient) for name, patient in said.items())
    return any(m is not None and same_person(m[1]) != same_person(patient) for m, patient in found)


def _patterns(patients: Mapping[str, str]) -> Iterator[str]:
    """Yield patterns to try; of two that do the same, the first is taken."""
    words = _words_behind(patients)
    if words:
        behind = rf"(?:{SEPARATOR}(?:{words}))+"
        yield rf"(?i)^(.*?\d.*?){behind}$"
        yield rf"(?i)^(.+?){behind}$"
        yield rf"(?i)^(.*?\d.*?){behind}(?:{SEPARATOR}{_COUNTER})?$"
    yield rf"^(.*\d.*?){SEPARATOR}{_COUNTER}$"
    yield rf"^(.*\d.*?){SEPARATOR}[a-zA-Z]$"
    yield r"^(.*\d.*?)[-_. ]*\(\d{1,3}\)$"
    yield r"^(.*\d)[a-eA-E]$"
    yield r"^(.*\d)[lrLR]$"
    yield r"(?i)^(.*\d)(?:od|os|ou)$"
    yield rf"(?i)^(.*\d)(?:{_GLUED})$"
    yield rf"^\d{{4}}[-_.]?\d\d[-_.]?\d\d{SEPARATOR}(.*\d.*)$"
    yield rf"^\d\d[-_.]\d\d[-_.]\d{{4}}{SEPARATOR}(.*\d.*)$"
    for start, before in sorted(_words_before(patients).items()):
        yield rf"(?i)^{re.escape(start)}(?:{before}){SEPARATOR}(.*\d.*)$"
    # Any words, such as inhale and exhale, crop2, or the copy of a file.
    yield rf"^(.*\d.*?){SEPARATOR}[^\W\d_]{{3,}}[-_. ]?\d{{0,3}}$"


_TAIL = re.compile(
    rf"^.+?(?P<tail>(?:{SEPARATOR}(?:{_WORDS}))+)(?:{SEPARATOR}{_COUNTER})?$", re.IGNORECASE
)
_BEHIND = re.compile(rf"{SEPARATOR}({_WORDS})(?![a-z0-9])", re.IGNORECASE)
_BEFORE = re.compile(
    rf"^(?P<start>|.*?{SEPARATOR})(?P<word>{_MARKERS}){SEPARATOR}(?=.*\d)", re.IGNORECASE
)


def _words_behind(names: Iterable[str]) -> str:
    """Return the alternatives of the words that ids end in."""
    tails = [found["tail"] for name in names if (found := _TAIL.match(name)) is not None]
    words = sorted({_general(w) for tail in tails for w in _BEHIND.findall(tail)})
    return "|".join(words) if len(words) <= MOST_WORDS else ""


def _words_before(names: Iterable[str]) -> dict[str, str]:
    """Return the alternatives of the words before the patient, by what stands before them."""
    seen: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found = _BEFORE.match(name)
        if found is not None:
            seen[found["start"]].add(found["word"].lower())
    several = [(start, words) for start, words in seen.items() if len(words) > 1]
    several.sort(key=lambda entry: (-len(entry[1]), entry[0]))
    return {s: "|".join(sorted({_general(w) for w in words})) for s, words in several[:MOST_STARTS]}


def _general(word: str) -> str:
    """Return a word as a pattern in which any number may stand for its numbers."""
    exact = re.fullmatch(DATE, word, re.IGNORECASE) is not None

    def number(found: re.Match[str]) -> str:
        return rf"\d{{{len(found[0])}}}" if exact else r"\d+"

    return re.sub(r"\d+", number, re.escape(word.lower()))


def _judge(pattern: str, patients: Mapping[str, str]) -> PatientGuess | None:
    """Return the guess of a pattern if the groups that it makes look like patients."""
    compiled = re.compile(pattern)
    groups: dict[str, list[str]] = defaultdict(list)
    rests: dict[str, set[str]] = defaultdict(set)
    for name in patients:
        found = compiled.match(name)
        base = same_person(found[1] if found else name)  # as the dataset takes names of patients
        groups[base].append(name)
        if found:
            rests[base].add((name[: found.start(1)] + "*" + name[found.end(1) :]).lower())
    joined = {
        base: names
        for base, names in groups.items()
        if base in rests and len({patients[n] for n in names}) > 1
    }
    everyone = {base if base in joined else patients[names[0]] for base, names in groups.items()}
    if not joined or len(everyone) < 2:
        return None
    if max(map(len, joined.values())) > MOST:
        return None
    if any(len({subject_of(name) for name in names} - {None}) > 1 for names in joined.values()):
        return None  # sub-01 and sub-02 are two people, whatever else is alike
    # A number that runs far and starts again in few groups counts patients, not their scans.
    kinds = set().union(*(rests[base] for base in joined))
    if len(kinds) > max(4, len(rests)):
        return None
    examples = min(joined.values(), key=lambda names: (-len(names), names))
    return PatientGuess(
        pattern, sum(map(len, joined.values())), len(joined), tuple(sorted(examples)[:3])
    )

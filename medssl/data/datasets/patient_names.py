"""Tell from the ids of cases alone which scans are of one patient, where that is certain.

An id is read as who, then which scan: ``P07_ses-2_T1w``, ``101_OD``, ``patient012_frame01``.
Certain is

* BIDS: ``sub-LABEL``, with whatever stands before it (``siteA_sub-01`` is not ``siteB_sub-01``)
  but which of the patient's scans it is (``ses-2_sub-01``);
* the subjects of ADNI (``002_S_0295``), OASIS (``OAS30001``) and TCGA (``TCGA-02-0003``), wherever
  in the id they stand;
* a known suffix behind a name with a digit in it, or behind at least two names without one:
  session, visit, time point, baseline, follow-up, pre, post; frame, phase, ED, ES; OD, OS; L, R,
  left, right; a date. Words that say how a scan was made (T1w, CT, axial) and BIDS entities may
  follow it.

Sides count only where both are there for somebody and no third letter stands in their place (S, M,
L are sizes); dates only behind a name with a digit; and no name may gather more than ``MOST``
sessions or dates, for then it is a site or a scanner. Everything else is for
:mod:`medssl.data.datasets.patient_guess`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medssl.data.images.names import plain_spelling, same_person

SEPARATOR = r"[-_. ]+"
MOST = 20
"""Sessions or dates of one patient from which on the name is rather that of a site."""

_TIME = r"(?:[t_\-. ]?\d{4}(?:\d\d)?)?"
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
DATE = (
    rf"(?:{_YEAR}{_MONTH}{_DAY}|{_YEAR}[_\-.]{_MONTH}[_\-.]{_DAY}|{_DAY}[_\-.]{_MONTH}[_\-.]{_YEAR})"
    rf"{_TIME}"
)
MARKERS: Mapping[str, str] = {
    "session": r"ses-[a-z0-9]+|(?:session|sess|ses)[-_. ]?\d+",
    "visit": r"(?:visit|time[-_. ]?point|time|tp)[-_. ]?\d+|baseline|(?:follow[-_. ]?up)[-_. ]?\d*"
    r"|fu[-_. ]?\d+|(?:pre|post)(?:[-_]?op)?",
    "frame": r"(?:frame|phase)[-_. ]?\d+|ed|es|(?:end[-_]?)?(?:dia|sy)stole",
    "eye": r"od|os|ou",
    "side": r"l|r|left|right|lt|rt|lh|rh|le|re|links|rechts|gauche|droite?|左眼?|右眼?",
    "date": DATE,
}
"""Kinds of suffixes that say which scan of a patient it is; upper and lower case alike."""

HOW = (
    r"t1|t1w|t1c|t1ce|t1gd|t1n|t2|t2w|t2f|flair|dwi|adc|swi|pd|pdw|stir|dce|bold|ct|mr|mri|pet|cbct|oct"
    r"|art|arterial|venous|portal|delayed|native|nc|ce|sa|la|sax|lax|[234]ch|ax|axial|sag|sagittal|cor"
    r"|coronal|contrast|image|img|vol|volume|scan|data"
)
"""Words that say how a scan was made; behind a suffix they say nothing about the patient."""

_ENTITY = r"[a-z]+-[a-z0-9]+"
_SUBJECT = re.compile(r"(?:^|[_\-. ])(?P<own>sub-[a-z0-9]+)(?![a-z0-9])", re.IGNORECASE)
_ARCHIVES = re.compile(
    r"(?<![a-z0-9])(?P<own>\d{3}_S_\d{4,5}|OAS[12]_\d{4}|OAS[34]\d{4}"
    r"|TCGA-[a-z0-9]{2}-[a-z0-9]{4})(?![a-z0-9])",
    re.IGNORECASE,
)
"""Subjects as ADNI, OASIS and TCGA number them; no two people share one."""
_WHICH = "|".join(MARKERS[kind] for kind in ("session", "visit", "frame", "date"))
_BEFORE_SUBJECT = re.compile(
    rf"(?:^|(?<=[-_. ]))(?:(?:{_WHICH}|{HOW}){SEPARATOR})+(?=sub-)", re.IGNORECASE
)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class _Parsed:
    """An id taken apart: who, and the kinds of suffixes behind."""

    base: str
    kinds: frozenset[str]


def patients_by_name(ids: Iterable[str]) -> dict[str, str]:
    """Return the patient of each id; where nothing is certain, the id itself.

    Args:
        ids: of all cases of a dataset: what is certain for one depends on the others.
    """
    out = {}
    left = []
    spelled = {name: plain_spelling(name) for name in dict.fromkeys(ids)}
    for name, plain in spelled.items():
        subject, of_archive = _SUBJECT.search(plain), _ARCHIVES.search(plain)
        if subject is not None:
            out[name] = _BEFORE_SUBJECT.sub("", plain[: subject.end()])
        elif of_archive is not None:
            out[name] = of_archive["own"]
        else:
            left.append(name)
    kinds = [k for k in MARKERS if k != "side" or _sides_are_meant([spelled[n] for n in left])]
    pattern = tail_pattern("|".join(MARKERS[k] for k in kinds))
    taken_apart = ((name, _parse(spelled[name], pattern, kinds)) for name in left)
    parsed = {name: found for name, found in taken_apart if found is not None}
    certain = _certain_bases(parsed)
    for name in left:
        own = parsed.get(name)
        out[name] = own.base if own is not None and own.base in certain else name
    return out


def one_spelling(patients: Mapping[str, str]) -> dict[str, str]:
    """Take names of patients that look alike, letter case aside, for one patient.

    Two people never parted cost nothing; one person on both sides of a split costs the result.

    Args:
        patients: of each case.

    Returns:
        The same with one spelling of each name, the first in the order of characters.
    """
    first: dict[str, str] = {}
    for name in sorted(set(patients.values())):
        first.setdefault(same_person(name), name)
    return {case: first[same_person(name)] for case, name in patients.items()}


def subject_of(name: str) -> str | None:
    """Return the ``sub-LABEL`` or an archive's subject in an id, None if there is none."""
    found = _SUBJECT.search(name) or _ARCHIVES.search(name)
    return None if found is None else found["own"].lower()


def tail_pattern(markers: str) -> re.Pattern[str]:
    """Return what takes an id apart: ``base``, then ``tail`` of nothing but suffixes.

    The base is as short as the tail allows. The tail begins with one of ``markers`` or with words
    of ``HOW``; BIDS entities may follow.
    """
    first = rf"(?:{markers}|{HOW})"
    return re.compile(
        rf"^(?P<base>.+?)(?P<tail>{SEPARATOR}{first}(?:{SEPARATOR}(?:{markers}|{HOW}|{_ENTITY}))*)$",
        re.IGNORECASE,
    )


def _parse(name: str, pattern: re.Pattern[str], kinds: Sequence[str]) -> _Parsed | None:
    found = pattern.match(name)
    if found is None:
        return None
    tail = found["tail"]
    seen = {k for k in kinds if re.search(rf"{SEPARATOR}(?:{MARKERS[k]})(?![a-z0-9])", tail, re.I)}
    return _Parsed(found["base"], frozenset(seen)) if seen else None


def _certain_bases(parsed: Mapping[str, _Parsed]) -> set[str]:
    """Return the names that certainly are patients'."""
    members: dict[str, int] = defaultdict(int)
    kinds: dict[str, set[str]] = defaultdict(set)
    for own in parsed.values():
        members[own.base] += 1
        kinds[own.base] |= own.kinds
    without_digit: dict[str, set[str]] = defaultdict(set)
    for base, own_kinds in kinds.items():
        for kind in own_kinds if not _DIGIT.search(base) else ():
            without_digit[kind].add(base)
    certain = set()
    for base, own_kinds in kinds.items():
        if own_kinds & {"session", "visit", "date"} and members[base] > MOST:
            continue
        if _DIGIT.search(base) or any(len(without_digit[k]) > 1 for k in own_kinds if k != "date"):
            certain.add(base)
    return certain


def _sides_are_meant(ids: Sequence[str]) -> bool:
    """Tell whether L and R at the end of ids are sides: both of one name, and no third letter."""
    last = re.compile(rf"^(.*){SEPARATOR}([^\W\d_]+)$", re.IGNORECASE)
    side = re.compile(rf"(?:{MARKERS['side']})$", re.IGNORECASE)
    how = re.compile(rf"(?:{SEPARATOR}(?:{HOW}|{DATE}|{_ENTITY}))+$", re.IGNORECASE)
    ends: dict[str, set[str]] = defaultdict(set)
    for name in ids:
        found = last.match(how.sub("", name))
        if found is not None:
            ends[found[1]].add(found[2].lower())
    pairs = [words for words in ends.values() if sum(bool(side.fullmatch(w)) for w in words) > 1]
    return bool(pairs) and not any(
        len(w) <= 2 and not side.fullmatch(w) for words in pairs for w in words
    )

"""Read what dataset.json says about a whole dataset: its names, labels, channels and unit."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import IGNORE_INDEX, LabelMap
from medssl.data.datasets.read_regions import chosen_regions, split_labels, whole_number
from medssl.data.images.geometry import Unit
from medssl.errors import MedSSLError

MAX_JSON_BYTES = 100_000_000
_UNITS: dict[str, Unit] = {
    "mm": "mm",
    "millimeter": "mm",
    "um": "um",
    "µm": "um",
    "μm": "um",
    "micron": "um",
}


class JsonObject(dict[str, Any]):
    """A JSON object that knows which keys stood in it more than once; the last value counts."""

    repeated: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Make one of the pairs in the order of the text; a plain dict where none is repeated."""
        counts = Counter(key for key, _ in pairs)
        if len(counts) == len(pairs):
            return dict(pairs)
        out = cls(pairs)
        out.repeated = tuple(key for key, n in counts.items() if n > 1)
        return out


def read_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a JSON object; return it and how it deviates from plain UTF-8.

    Raises:
        MedSSLError: not readable, not JSON (with line and column), or not an object.
    """
    deviations = []
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise MedSSLError("the file is far too big for JSON text", where=path, fix="replace it")
        raw = path.read_bytes()
        if raw.startswith(b"\xef\xbb\xbf"):
            deviations.append(f"{path.name} starts with a byte order mark")
        data = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=JsonObject.of)
    except OSError as error:
        raise MedSSLError(
            f"cannot be read: {error.strerror or error}", where=path, fix="check path and rights"
        ) from None
    except UnicodeDecodeError as error:
        raise MedSSLError(
            f"is not UTF-8 text (byte {error.start})", where=path, fix="save it as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise MedSSLError(
            f"is not valid JSON: {error.msg} in column {error.colno}",
            where=f"{path}:{error.lineno}",
            fix="mend that line (often a missing or trailing comma just before it)",
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise MedSSLError(f"is not usable: {error}", where=path, fix="mend the number") from None
    except RecursionError:
        raise MedSSLError("is nested too deeply", where=path, fix="replace the file") from None
    _check_text(data, path)
    if not isinstance(data, dict):
        raise MedSSLError(
            f"holds a JSON {type(data).__name__}, not an object",
            where=path,
            fix='the file must look like {"labels": {...}, "training": [...]}',
        )
    return data, deviations


def _check_text(data: Any, path: Path) -> None:
    """Refuse halves of characters, which JSON can spell but no file name or log can hold."""
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MedSSLError(
            "holds half a character (an escape \\ud800 to \\udfff alone)",
            where=path,
            fix="write the names with plain letters",
        ) from None


def _label_pairs(raw: Any, where: Path, deviations: list[str]) -> list[tuple[int, str]]:
    """Return (value, name) from either direction in which ``labels`` is written."""
    if isinstance(raw, list) and all(isinstance(name, str) for name in raw):
        deviations.append("'labels' is a list: its positions are read as label values")
        return list(enumerate(raw))
    if not isinstance(raw, Mapping) or not raw:
        raise MedSSLError(
            "dataset.json names no labels" if not raw else "'labels' is not a mapping",
            where=where,
            fix='write for instance "labels": {"0": "background", "1": "liver"}',
        )
    keys, values = [whole_number(k) for k in raw], [whole_number(v) for v in raw.values()]
    if all(k is not None for k in keys) and all(isinstance(v, str) for v in raw.values()):
        return [(k, v.strip()) for k, v in zip(keys, raw.values(), strict=True) if k is not None]
    if None not in values:
        kind = "strings" if any(isinstance(v, str) for v in raw.values()) else "numbers"
        deviations.append(f"'labels' maps names to {kind}: read as value to name")
        return [(v, k.strip()) for v, k in zip(values, raw, strict=True) if v is not None]
    pairs = list(raw.items())
    neither = [(k, v) for k, v in pairs if whole_number(k) is None and whole_number(v) is None]
    entry = (neither or pairs)[0]
    raise MedSSLError(
        f"'labels' mixes styles or has an entry without a whole number: {entry[0]!r}: {entry[1]!r}",
        where=where,
        fix='write every entry as "VALUE": "name", for instance "1": "liver"',
    )


def parse_labels(
    info: Mapping[str, Any], where: Path, regions: Mapping[str, Sequence[int]] | None = None
) -> tuple[LabelMap, list[str]]:
    """Return the label map declared in dataset.json, background first and values ascending.

    A label named ``ignore`` marks voxels without annotation. Regions, where they are stated, are
    the structures: see :mod:`medssl.data.datasets.read_regions`.

    Args:
        info: content of dataset.json.
        where: the file.
        regions: of a recipe, which take the place of those in dataset.json, whatever these are.

    Raises:
        MedSSLError: repeated, negative or too large values, no labels at all, or regions that
            contradict themselves.
    """
    deviations: list[str] = []
    names: dict[int, str] = {}
    ignore: int | None = None
    _refuse_repeated(info.get("labels"), where, "labels")
    if regions is None:
        _refuse_repeated(info.get("regions"), where, "regions")
    raw, of_labels = split_labels(info.get("labels"), where, believed=regions is None)
    for value, name in _label_pairs(raw, where, deviations):
        if value in names or value == ignore:
            other = names.get(value, "ignore")
            raise MedSSLError(
                f"labels '{other}' and '{name}' share the value {value}",
                where=where,
                fix="give each structure its own value",
            )
        if name.lower() == "ignore":
            ignore = value
            continue
        if not 0 <= value < 2**16:
            raise MedSSLError(
                f"label '{name}' has the value {value}",
                where=where,
                fix="label values must lie between 0 and 65535",
            )
        if name.lower() == "background" and value != 0:
            raise MedSSLError(
                f"background has the value {value}", where=where, fix="background must be 0"
            )
        names[value] = name
    if 0 not in names and ignore != 0:
        deviations.append("'labels' has no background: value 0 is read as background")
        names[0] = "background"
    if ignore == 0:
        raise MedSSLError(
            "label 'ignore' has the value 0", where=where, fix="0 must be the background"
        )
    if len(names) < 2 or len(names) > IGNORE_INDEX:
        raise MedSSLError(
            f"'labels' declares {len(names) - 1} structures besides background",
            where=where,
            fix=f"declare between 1 and {IGNORE_INDEX - 1} structures",
        )
    order = sorted(names)
    _refuse_same_names(names, where)
    found = LabelMap(tuple(order), tuple(names[v] for v in order), ignore)
    made = chosen_regions(info, of_labels, regions, names, where)
    return replace(found, regions=made), deviations


def _refuse_repeated(raw: Any, where: Path, key: str) -> None:
    """Refuse an entry that another one of the same key has taken the place of."""
    repeated = raw.repeated if isinstance(raw, JsonObject) else ()
    if repeated:
        raise MedSSLError(
            f"'{key}' has the entry '{repeated[0]}' twice",
            where=where,
            fix="give each structure its own value and its own name",
        )


def _refuse_same_names(names: Mapping[int, str], where: Path) -> None:
    """Refuse names that are empty or alike: their numbers could not be told apart."""
    values: dict[str, int] = {}
    for value, name in sorted(names.items()):
        if not name.strip():
            raise MedSSLError(
                f"the value {value} has no name", where=where, fix="give each structure a name"
            )
        other = values.setdefault(" ".join(unicodedata.normalize("NFC", name).split()), value)
        if other != value:
            raise MedSSLError(
                f"the values {other} and {value} are both called '{name}'",
                where=where,
                fix="give each structure its own name, or both the same value if they are one",
            )


def parse_modality(info: Mapping[str, Any], where: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return one modality name per channel; empty if dataset.json names none.

    Raises:
        MedSSLError: the value is neither a mapping, a list nor a name.
    """
    key = next((k for k in ("modality", "channel_names", "modalities") if info.get(k)), None)
    if key is None:
        return (), ["dataset.json names no 'modality': channels are counted from the images"]
    deviations = [] if key == "modality" else [f"'{key}' is read as 'modality'"]
    raw = info[key]
    if isinstance(raw, str):
        deviations.append(f"'{key}' is a single name, not a mapping")
        return (raw,), deviations
    if isinstance(raw, list) and all(isinstance(v, str) for v in raw):
        deviations.append(f"'{key}' is a list, not a mapping")
        return tuple(raw), deviations
    if not isinstance(raw, Mapping) or not all(isinstance(v, str) for v in raw.values()):
        raise MedSSLError(
            f"'{key}' is not a mapping of channel numbers to names",
            where=where,
            fix='write for instance "modality": {"0": "MRI"}',
        )
    if all(whole_number(k) is not None for k in raw):
        return tuple(raw[k] for k in sorted(raw, key=lambda k: whole_number(k) or 0)), deviations
    deviations.append(f"'{key}' is not numbered: its order in the file is kept")
    return tuple(raw.values()), deviations


def parse_unit(info: Mapping[str, Any], where: Path) -> Unit:
    """Return ``mm`` (the default) or ``um``.

    Raises:
        MedSSLError: ``spatial_unit`` is anything else.
    """
    raw = info.get("spatial_unit") or info.get("spatialUnit") or "mm"
    unit = _UNITS.get(str(raw).strip().lower())
    if unit is None:
        raise MedSSLError(
            f"'spatial_unit' is {raw!r}", where=where, fix='write "mm" or "um" (micrometers)'
        )
    return unit


def check_count(info: Mapping[str, Any], key: str, counted: int) -> list[str]:
    """Describe how ``numTraining`` or ``numTest`` departs from the number of items listed."""
    if key not in info:
        return [f"'{key}' is missing"] if key == "numTraining" else []
    number = whole_number(info[key])
    if number is None:
        return [f"'{key}' is not a number: {info[key]!r}"]
    found = [f"'{key}' is a string"] if isinstance(info[key], str) else []
    if number != counted:
        found.append(f"'{key}' says {number} but {counted} items are listed")
    return found


def misspelt(info: Mapping[str, Any]) -> list[str]:
    """Name the misspelt keys that published datasets carry; nothing depends on them."""
    return [f"'{bad}' stands for '{good}'" for bad, good in _TYPOS.items() if bad in info]


_TYPOS = {"relase": "release", "licence": "license"}

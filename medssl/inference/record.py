"""The record beside predictions: which model made them, with which options, of which images.

A folder holds the predictions of one model: :mod:`medssl.inference.record_file` says how it is
recorded. Several processes may predict into one folder: each adds what it has done.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medssl.data.datasets.known_files import KnownFiles
from medssl.data.dicom.series import Series
from medssl.errors import MedSSLError
from medssl.files import locked
from medssl.files.atomic import remove
from medssl.inference.case_files import CaseFiles
from medssl.inference.identity import options_of, weights_sha256
from medssl.inference.inputs import files_of
from medssl.inference.predictor import Predictor
from medssl.inference.record_file import Entry, read_record, sums, write_record
from medssl.inference.volumes import Volumes

SHARE_OF_TIME = 0.05
"""Writing the record takes at most about this share of the time."""


class Record:
    """The record of one folder of predictions, as one process adds to it.

    Args:
        folder: of the predictions; it is there.
        predictor: what predicts.
    """

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        self.folder = folder
        self.temperature = predictor.temperature
        self.made_with: Entry = {
            "model": predictor.source,
            "weights_sha256": weights_sha256(predictor.model),
            "options": options_of(predictor),
            **({"folds": list(predictor.folds)} if predictor.folds else {}),
        }
        decides = [self.made_with["weights_sha256"], self.made_with["options"]]
        content = json.dumps(decides, sort_keys=True).encode()
        self.key = hashlib.sha256(content).hexdigest()[:12]
        self._hashes = KnownFiles(None)
        self._before: dict[str, Entry | None] = {}
        self._started: dict[str, CaseFiles] = {}
        self._changes: dict[str, Entry | None] = {}
        self._not_before = 0.0

    @contextmanager
    def adding(
        self, cases: Sequence[CaseFiles], everyone: Collection[str], *, overwrite: bool
    ) -> Iterator[set[str]]:
        """Claim cases while they are predicted; at the end the record says which were.

        Args:
            cases: what this process is to predict.
            everyone: ids of these and of what other processes are to predict at the same time.
            overwrite: predict again what is there, whoever made it.

        Yields:
            The ids of those that are there already.

        Raises:
            MedSSLError: the folder holds predictions of another model, of other images, or that
                nothing is known of; or the record cannot be read or written.
        """
        models, entries = read_record(self.folder, damaged=overwrite)
        there: set[str] = set()
        if overwrite:
            self._refuse_what_stays(models, entries, everyone)
        else:
            self._refuse_another_model(models, entries)
            there = self._compare(entries, cases)
        todo = [case for case in cases if case.case_id not in there]
        with self._locked():
            models, entries = read_record(self.folder, damaged=overwrite)
            if not overwrite:
                self._refuse_another_model(models, entries)  # one that began meanwhile
            self._before = {case.case_id: entries.get(case.case_id) for case in todo}
            for case in todo:
                entries[case.case_id] = self._pending(case)
            write_record(self.folder, {**models, self.key: self.made_with}, entries)
        try:
            yield there
        finally:
            self._end()

    def start(self, case: CaseFiles) -> None:
        """Make ready for a case: remove what another model, or nobody knows who, made of it."""
        entry = self._before[case.case_id]
        mine = entry is not None and entry["model"] == self.key
        if not (mine and entry is not None and entry["images"] == self._images(case)):
            for name in self._pending(case)["files"]:
                remove(self.folder / name)
            self._before[case.case_id] = None
        self._started[case.case_id] = case

    def finish(
        self, case: CaseFiles, unusual: Sequence[str] = (), volumes: Volumes | None = None
    ) -> None:
        """Record a case whose files are whole, with what is unlike training, and its volumes."""
        entry = {**self._pending(case), "images": self._images(case)}
        if case.depend_on_temperature:
            entry["temperature"] = self.temperature
        if unusual:
            entry["unusual"] = list(unusual)
        if volumes is not None:
            entry["volumes"] = volumes.as_dict()
        entry["files"] = [name for name in entry["files"] if (self.folder / name).exists()]
        self._changes[case.case_id] = entry
        del self._started[case.case_id], self._before[case.case_id]
        if time.monotonic() >= self._not_before:
            self._add_changes()

    def _end(self) -> None:
        """Take back the claims of what was not predicted."""
        for name, entry in self._before.items():
            case = self._started.get(name)
            if case is None:
                self._changes[name] = entry
            elif not any(path.exists() for path in case.targets):
                self._changes[name] = None
        self._add_changes()

    def _add_changes(self) -> None:
        began = time.monotonic()
        with self._locked():
            models, entries = read_record(self.folder, damaged=True)
            for name, entry in self._changes.items():
                if entry is None:
                    entries.pop(name, None)
                else:
                    entries[name] = entry
            write_record(self.folder, {**models, self.key: self.made_with}, entries)
        self._changes.clear()
        now = time.monotonic()
        self._not_before = now + (now - began) / SHARE_OF_TIME

    def _pending(self, case: CaseFiles) -> Entry:
        """Return the entry of a case until its files are whole."""
        before = self._before.get(case.case_id) or {}
        names = [path.relative_to(self.folder).as_posix() for path in case.targets]
        kept = {key: before[key] for key in ("temperature",) if key in before}
        files = sorted({*before.get("files", ()), *names})
        return {"model": self.key, "images": None, "files": files, **kept}

    def _compare(self, entries: Mapping[str, Entry], cases: Sequence[CaseFiles]) -> set[str]:
        """Return the ids of the cases whose files are there, of the same images.

        Raises:
            MedSSLError: files are there that were made of other images, or nobody knows of what.
        """
        there, unknown, others = set(), [], []
        for case in cases:
            if not any(path.exists() for path in case.targets):
                continue
            entry = entries.get(case.case_id)
            if entry is None:
                unknown.append(case.case_id)
            elif entry["images"] is None:
                continue  # a killed process left them: they are made again
            elif (images := self._images(case)) is None or sums(images) == sums(entry["images"]):
                if self._is_whole(case, entry):
                    there.add(case.case_id)
            else:
                others.append(case.case_id)
        if unknown:
            raise self._refusal(unknown, "predictions here that no record tells the model of")
        if others:
            raise self._refusal(others, "predictions here that were made of other images")
        return there

    def _is_whole(self, case: CaseFiles, entry: Entry) -> bool:
        if not case.are_there(self.temperature):
            return False
        known = entry.get("temperature", self.temperature)
        return not case.depend_on_temperature or math.isclose(known, self.temperature, rel_tol=1e-9)

    def _refuse_another_model(
        self, models: Mapping[str, Entry], entries: Mapping[str, Entry]
    ) -> None:
        others = [name for name, entry in entries.items() if entry["model"] != self.key]
        if others:
            made = models[entries[others[0]]["model"]]
            raise self._refusal(others, f"predictions here {self._difference(made)}")

    def _refuse_what_stays(
        self, models: Mapping[str, Entry], entries: Mapping[str, Entry], everyone: Collection[str]
    ) -> None:
        """Refuse to mix: what is not predicted again would stay among those that are."""
        others = [n for n, e in entries.items() if e["model"] != self.key and n not in everyone]
        if others:
            made = self._difference(models[entries[others[0]]["model"]])
            error = self._refusal(others, f"predictions here {made}, and would stay")
            error.fix = "choose another --output, or remove this folder first"
            raise error

    def _difference(self, made: Entry) -> str:
        mine = self.made_with
        if made["weights_sha256"] == mine["weights_sha256"]:
            for key, now in mine["options"].items():
                before = made["options"].get(key)
                if before != now:
                    return f"made with {key} = {json.dumps(before)}, not {json.dumps(now)}"
        if made["model"] == mine["model"]:
            return f"made with other weights of {made['model']}"
        return f"made by another model ({made['model']}, not {mine['model']})"

    def _refusal(self, names: Sequence[str], what: str) -> MedSSLError:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return MedSSLError(
            f"there are {what}: {', '.join(names[:3])}{more}",
            where=self.folder,
            fix="choose another --output, or add --overwrite to predict them again",
        )

    def _images(self, case: CaseFiles) -> list[Entry] | None:
        """Return the files a case is predicted from, with their hashes; None if one is missing."""
        try:
            hashed = [(path, self._hashes.whole(path)) for path in files_of(case.source)]
        except MedSSLError:
            return None  # predicting it will say so
        if not isinstance(case.source, Series):
            return [{"file": str(path), "sha256": found} for path, found in hashed]
        together = hashlib.sha256("".join(sorted(found for _, found in hashed)).encode())
        return [{"file": str(hashed[0][0].parent), "sha256": together.hexdigest()}]

    def _locked(self) -> Any:
        return locked(self.folder / ".predictions.lock", stays=False)

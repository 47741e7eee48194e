"""The server: it waits for updates, refuses those that are not right, and makes them one model.

The rule for sites that are late or missing: a round is closed when every site has answered, or when
the server has waited as long as was agreed; in both cases only with as many good updates as were
agreed, else it goes on waiting. An update that is refused counts as an answer; one that is still
being copied does not. What the server decided lies in its own folder before anything is published:
it can be killed at any time and started again, and puts back what was taken from the shared folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl.errors import MedSSLError
from medssl.federation.agreed import FILE, Federation, read_agreed, read_server_keys
from medssl.federation.average import averaged, length, site_weights, too_long
from medssl.federation.create import KEYS
from medssl.federation.messages import (
    Header,
    Message,
    Refused,
    as_bytes,
    global_name,
    model_hash,
    packed,
    read_message,
    refuse_other,
    update_name,
)
from medssl.files import locked, write_bytes, write_json
from medssl.paths import AnyPath
from medssl.progress import Display

LEDGER = "rounds.json"
MOST_PATIENTS = 10_000
"""So many patients with labels a site can have."""


@dataclass(frozen=True)
class Round:
    """What the server decided about a round.

    Attributes:
        number: from 1.
        model: SHA-256 of its tensors.
        weights: of the sites that are in it.
        lengths: of their updates.
        refused: sites whose update was refused, and why.
        missing: sites that had not answered.
    """

    number: int
    model: str
    weights: dict[str, float]
    lengths: dict[str, float]
    refused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


@dataclass
class _Answers:
    """What lies in the folder for a round."""

    good: dict[str, Message] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    arriving: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)


def federate_server(
    folder: AnyPath,
    server: AnyPath,
    *,
    once: bool = False,
    wait_minutes: float | None = None,
    poll_seconds: float = 2.0,
    display: Display | None = None,
) -> list[Round]:
    """Close rounds until the last one, or as far as what lies in the folder goes.

    Args:
        folder: where the sites meet.
        server: the server's own folder.
        once: do not wait: close what can be closed now.
        wait_minutes: in the place of what was agreed; 0 closes a round with the sites there are.
        poll_seconds: how often the folder is looked at.
        display: shows progress.

    Returns:
        All rounds that are closed.

    Raises:
        MedSSLError: a damaged folder, or another server is at work.
    """
    display, home = display or Display(quiet=True), Path(server)

    def busy(_: int | None) -> MedSSLError:
        return MedSSLError("another server is at work", where=home, fix="wait for it or end it")

    if not (home / KEYS).is_file():
        raise MedSSLError("it is no folder of a server", where=home, fix="name it with --server")
    with locked(home / ".lock", busy=busy):
        work = Server(Path(folder), home, display)
        work.publish()
        wait = 60 * (work.federation.wait_minutes if wait_minutes is None else wait_minutes)
        while len(work.rounds) < work.federation.rounds:
            began, looked_at = time.monotonic(), None
            while True:
                over = time.monotonic() - began >= wait
                there = (over, work.files())
                if there != looked_at and work.close(patience_over=over):
                    break
                if once:
                    return work.rounds
                looked_at = there
                time.sleep(poll_seconds)
        return work.rounds


class Server:
    """The rounds of a federation; see :func:`federate_server`."""

    def __init__(self, folder: Path, home: Path, display: Display) -> None:
        self.folder, self.home, self.say = folder, home, display.say
        self.keys = read_server_keys(home / KEYS)
        self.federation: Federation = read_agreed(home, self.keys.federation)
        self.secrets = [bytes.fromhex(self.keys.keys[site]) for site in self.federation.sites]
        self.rounds = _ledger(home / LEDGER)
        self.base: Mapping[str, Tensor] = self._own(len(self.rounds)).tensors
        self._told: set[str] = set()

    @property
    def model(self) -> str:
        """SHA-256 of the newest model."""
        return self.rounds[-1].model if self.rounds else self.federation.base

    def publish(self, *names: str) -> None:
        """Put into the folder what is not there as the server made it; by default everything."""
        for name in names or (FILE, *map(global_name, range(len(self.rounds) + 1))):
            own, there = self.home / name, self.folder / name
            content = own.read_bytes()
            if there.is_symlink() or not there.is_file() or there.read_bytes() != content:
                write_bytes(there, content)

    def files(self) -> list[tuple[int, int, int] | None]:
        """Return what changes when an update of the open round does, without reading it."""
        found: list[tuple[int, int, int] | None] = []
        for site in self.federation.sites:
            try:
                there = (self.folder / update_name(len(self.rounds) + 1, site)).lstat()
                found.append((there.st_ino, there.st_size, there.st_mtime_ns))
            except OSError:
                found.append(None)
        return found

    def close(self, *, patience_over: bool) -> bool:
        """Close the open round, if it can be; say what was refused."""
        number, federation = len(self.rounds) + 1, self.federation
        answers = self._answers(number)
        everyone = len(answers.good) + len(answers.refused) == len(federation.sites)
        if patience_over:
            answers.refused |= answers.arriving
        for site, why in answers.refused.items():
            told = f"round {number}: the update of {site} is refused: {why}"
            if told not in self._told:
                self.say(told)
                self._told.add(told)
        if not (everyone or patience_over) or len(answers.good) < federation.at_least:
            return False
        figures = {
            site: {str(k): v for k, v in m.header.figures.items()}
            for site, m in answers.good.items()
        }
        weights = site_weights(federation.weights, figures)
        if federation.average != "mean":
            weights = dict.fromkeys(weights, 1 / len(weights))
        tensors = self._averaged(answers.good, weights)
        payload = as_bytes(tensors, federation.tensors)
        found = Round(
            number,
            model_hash(payload),
            weights,
            {site: answers.lengths[site] for site in answers.good},
            answers.refused,
            [s for s in federation.sites if s not in {**answers.good, **answers.refused}],
        )
        header = Header(
            kind="global",
            federation=self.keys.federation,
            round=number,
            base=self.model,
            used=list(answers.good),
        )
        write_bytes(self.home / global_name(number), packed(header, payload, self.secrets))
        write_json(self.home / LEDGER, {"rounds": [asdict(r) for r in (*self.rounds, found)]})
        self.rounds, self.base = [*self.rounds, found], tensors
        self.publish(global_name(number))
        self.say(f"round {number} of {federation.rounds}: {', '.join(answers.good)}")
        return True

    def _answers(self, number: int) -> _Answers:
        """Read what there is for a round, and refuse what is not right."""
        found = _Answers()
        for site, secret in zip(self.federation.sites, self.secrets, strict=True):
            path = self.folder / update_name(number, site)
            try:
                message = read_message(path, self.federation.tensors, secret, whose=site)
                refuse_other(
                    message,
                    kind="update",
                    federation=self.keys.federation,
                    site=site,
                    round=number,
                    base=self.model,
                )
                self._refuse_figures(message.header)
            except FileNotFoundError:
                continue
            except Refused as refused:
                (found.arriving if refused.arriving else found.refused)[site] = str(refused)
                continue
            found.good[site] = message
            found.lengths[site] = length(message.tensors, self.base)
        before = [list(r.lengths.values()) for r in self.rounds]
        long = too_long(found.lengths, before, self.federation.norm_limit)
        found.refused |= long
        found.good = {site: m for site, m in found.good.items() if site not in long}
        return found

    def _refuse_figures(self, header: Header) -> None:
        """Refuse figures that cannot be: they weigh."""
        most = {"iterations": self.federation.every}
        if self.federation.weights == "labeled":
            most["labeled_patients"] = MOST_PATIENTS
        figures = header.figures
        if figures.keys() != most.keys() or any(
            not 0 <= figures[key] <= limit  # type: ignore[index]
            for key, limit in most.items()
        ):
            raise Refused("its figures cannot be")

    def _averaged(
        self, good: Mapping[str, Message], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        share: Sequence[float] = [weights[site] for site in good]
        return {
            name: averaged(
                [message.tensors[name] for message in good.values()],
                share,
                self.federation.average,
                self.federation.trim,
            )
            for name in self.federation.tensors
        }

    def _own(self, number: int) -> Message:
        """Return a model from the server's own folder."""
        path = self.home / global_name(number)
        try:
            sites = len(self.federation.sites)
            found = read_message(path, self.federation.tensors, self.secrets[0], tags=sites)
            refuse_other(found, kind="global", federation=self.keys.federation, round=number)
        except (Refused, FileNotFoundError) as problem:
            raise MedSSLError(
                f"the server's own copy of round {number} cannot be used: {problem}",
                where=path,
                fix="restore the server's folder from a backup",
            ) from None
        return found


def _ledger(path: Path) -> list[Round]:
    """Return the rounds that were closed."""
    if not path.is_file():
        return []
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return [Round(**one) for one in content["rounds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedSSLError(
            f"the server's record of the rounds is damaged: {error}",
            where=path,
            fix="restore the server's folder from a backup",
        ) from None

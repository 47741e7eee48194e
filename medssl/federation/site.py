"""A site: it trains on its own scans, and meets the others in the folder.

The rule for sites that are late: an update counts for a round while the server waits for it. A site
that finishes its iterations when the round has been closed without it sends nothing, takes the
newest model, and is in time again. It waits for the server as long as it takes; a signal stops it,
saved, and ``--resume`` goes on waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl.errors import MedSSLError
from medssl.federation.agreed import (
    SiteKey,
    read_agreed,
    read_site_key,
    refuse_other_recipe,
)
from medssl.federation.messages import (
    Header,
    Message,
    Refused,
    as_bytes,
    global_name,
    packed,
    read_message,
    refuse_other,
    update_name,
)
from medssl.files import append_line, write_bytes
from medssl.paths import AnyPath
from medssl.recipe.load import load_recipe
from medssl.runs.folder import read_lines
from medssl.training.exchange import Update

JOURNAL = "federated.jsonl"
"""In the run folder: which round's model was taken after which iteration."""


def site_exchange(
    folder: AnyPath,
    key: AnyPath,
    recipe: AnyPath,
    *,
    overrides: Sequence[str] = (),
    say: Callable[[str], None],
    poll_seconds: float = 2.0,
) -> FolderExchange:
    """Return what :func:`medssl.train` needs to train this site's scans with the other sites.

    Args:
        folder: where the sites meet.
        key: the file that the server gave this site.
        recipe: what will be trained: as at all sites, with this site's own section ``data``; or a
            run that goes on.
        overrides: ``section.key=value`` assignments; ``data`` and ``evaluation`` are the site's.
        say: told what happens.
        poll_seconds: how often the folder is looked at.

    Raises:
        MedSSLError: another recipe than was agreed, or a damaged folder.
    """
    exchange = FolderExchange(
        Path(folder), read_site_key(Path(key)), say=say, poll_seconds=poll_seconds
    )
    refuse_other_recipe(exchange.federation, load_recipe(recipe, overrides))
    return exchange


class FolderExchange:
    """The exchange of a site with a folder; see :class:`medssl.training.exchange.Exchange`.

    Raises:
        MedSSLError: the folder is not what the key was made for, or the site not one of it.
    """

    def __init__(
        self, folder: Path, key: SiteKey, *, say: Callable[[str], None], poll_seconds: float = 2.0
    ) -> None:
        self.folder, self.key, self.say, self.poll_seconds = folder, key, say, poll_seconds
        self.federation = federation = read_agreed(folder, key.federation)
        if key.site not in federation.sites:
            raise MedSSLError(f"the federation has no site {key.site}", where=folder)
        self.name, self.every = f"federation {federation.id}", federation.every
        self.parts, self.norms = tuple(federation.parts), federation.norms
        self.proximal = federation.proximal
        self._told: set[str] = set()

    def open(self, run: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Compare what is shared with what was agreed; return what all start from."""
        own = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if list(own.items()) != list(self.federation.tensors.items()):
            wrong = [n for n, s in {**self.federation.tensors, **own}.items() if own.get(n) != s]
            wrong += [n for n, s in self.federation.tensors.items() if own.get(n) != s]
            raise MedSSLError(
                f"this site would share other tensors than were agreed: {(wrong or ['order'])[0]}",
                where=self.folder,
                fix=f"the federation is for {self.federation.channels} channel(s) and the "
                f"structures {', '.join(self.federation.labels)}: use such a dataset, and the same "
                "version of medssl at all sites",
            )
        self.journal = run / JOURNAL
        base = self._read(0)
        if base is None or base.model != self.federation.base:
            raise MedSSLError(
                "the model that all start from is not there, or not authentic",
                where=self.folder / global_name(0),
                fix="let the server look at the folder again: `medssl federate server`",
            )
        return base.tensors

    def swap(self, update: Update, stopped: Callable[[], bool]) -> Mapping[str, Tensor] | None:
        """Send an update for the open round, wait for its model, and note what was taken."""
        lines = read_lines(self.journal) if self.journal.is_file() else []
        for line in lines:
            if line["step"] == update.step:
                return self._again(line)
        earlier = [line for line in lines if line["step"] < update.step]
        base: dict[str, Any] = {"round": 0, "model": self.federation.base}
        if earlier:
            base = earlier[-1]
        due = min(int(base["round"]) + 1, self.federation.rounds)
        newest = self._newest(due)
        late = newest is not None
        if newest is None:
            self._send(update, due, str(base["model"]))
            self.say(f"round {due}: sent, waiting for the others")
        while newest is None:
            if stopped():
                return None
            time.sleep(self.poll_seconds)
            newest = self._newest(due)
        header = newest.header
        if self.key.site not in header.used:
            why = "it was closed before" if late else "the server did not use what was sent"
            self.say(f"note: round {header.round} is without this site: {why}")
        append_line(
            self.journal, {"step": update.step, "round": header.round, "model": newest.model}
        )
        return newest.tensors

    def _again(self, line: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """Return what was taken before the run was interrupted."""
        found = self._read(int(line["round"]))
        if found is None or found.model != line["model"]:
            raise MedSSLError(
                f"the model of round {line['round']}, which this run took, is no longer there",
                where=self.folder,
                fix="let the server put it there again: `medssl federate server`",
            )
        return found.tensors

    def _send(self, update: Update, due: int, base: str) -> None:
        figures: dict[str, int] = {"iterations": update.iterations}
        if self.federation.weights == "labeled":
            figures["labeled_patients"] = update.labeled_patients
        header = Header.model_validate(
            {
                "kind": "update",
                "federation": self.key.federation,
                "site": self.key.site,
                "round": due,
                "base": base,
                "figures": figures,
            }
        )
        payload = as_bytes(update.tensors, self.federation.tensors)
        path = self.folder / update_name(due, self.key.site)
        write_bytes(path, packed(header, payload, [self.key.secret]))

    def _newest(self, least: int) -> Message | None:
        """Return the newest authentic model of round ``least`` or later; None if there is none."""
        for round_ in range(self.federation.rounds, least - 1, -1):
            if (self.folder / global_name(round_)).exists():
                found = self._read(round_)
                if found is not None:
                    return found
        return None

    def _read(self, round_: int) -> Message | None:
        """Return the model of a round, if it is there and authentic; say once why it is not."""
        path = self.folder / global_name(round_)
        sites = self.federation.sites
        try:
            found = read_message(
                path,
                self.federation.tensors,
                self.key.secret,
                place=sites.index(self.key.site),
                tags=len(sites),
                whose="this site",
            )
            refuse_other(
                found, kind="global", federation=self.key.federation, site="", round=round_
            )
        except FileNotFoundError:
            return None
        except Refused as refused:
            told = f"{path.name}: {refused}"
            if not refused.arriving and told not in self._told:
                self.say(f"warning: {told}; waiting for the right one")
                self._told.add(told)
            return None
        return found

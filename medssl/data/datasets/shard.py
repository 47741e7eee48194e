"""The part of many cases that one job of an array does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from medssl.errors import MedSSLError

T = TypeVar("T")

_FORM = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*")


@dataclass(frozen=True)
class Shard:
    """Shard number ``index`` of ``count``, counted from 1.

    Counting from 1 makes ``--array=1-8`` and ``$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX`` agree.
    """

    index: int
    count: int

    def of(self, items: Sequence[T]) -> list[T]:
        """Return this shard's items, every ``count``-th one.

        The shards of one list have no item in common, hold all of them together, and differ in
        length by one at most. Give every job the same list in the same order.
        """
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str | None) -> Shard | None:
    """Read ``3/8``, the third of eight; None stays None.

    Raises:
        MedSSLError: something else, or a number outside of 1 to N.
    """
    if text is None:
        return None
    found = _FORM.fullmatch(text)
    if not found:
        unset = text.strip().startswith("/") or text.strip().endswith("/")
        raise MedSSLError(
            f"cannot read {text!r} as a shard" + (": a variable is not set" if unset else ""),
            where="--shard",
            fix="write I/N, for instance --shard 3/8; in a SLURM array of 1-8: "
            "--shard $SLURM_ARRAY_TASK_ID/8",
        )
    index, count = map(int, found.groups())
    if not 1 <= index <= count:
        few = f"1/{max(count, 1)}" + (f" to {count}/{count}" if count > 1 else "")
        raise MedSSLError(
            f"there is no shard {index} of {count}",
            where="--shard",
            fix=f"shards are counted from 1: {few}"
            + (f"; start the array with --array=1-{count}" if count else ""),
        )
    return Shard(index, count)

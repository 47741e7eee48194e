"""How a check says that a method breaks the contract, or that there is nothing to look at."""

from __future__ import annotations


class ContractError(AssertionError):
    """A method does not do what every method must: which check, in which setting, what was seen."""


class NotApplicable(Exception):  # noqa: N818 - not an error
    """A check has nothing to look at in this method; says why."""


def expect(condition: object, wanted: str, seen: object = None) -> None:
    """Raise :class:`ContractError` unless ``condition`` holds.

    Args:
        condition: what must be so.
        wanted: the same in words.
        seen: what was found instead.

    Raises:
        ContractError: it is not so.
    """
    if not condition:
        raise ContractError(wanted if seen is None else f"{wanted}; seen: {seen}")

"""Whose labels or images a run or its ancestors saw, and what cannot be scored for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import MedSSLError
from medssl.runs.lineage import Lineage, voxel_hashes

if TYPE_CHECKING:  # the readers of images: whoever has scans has loaded them
    from medssl.data.datasets.case import Case
    from medssl.data.datasets.contents import Contents

_NAMED = 5


@dataclass(frozen=True)
class Seen:
    """Who of some patients was seen in training.

    Attributes:
        labels: what saw the label of whom: key and source by patient.
        images: patients of whom an image was seen and no label.
        unknown: key and source of ancestors that nothing is known of.
    """

    labels: Mapping[str, str]
    images: tuple[str, ...]
    unknown: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return what a summary says of it; nothing where there is nothing to say."""
        found = {"transductive": list(self.images), "unknown_ancestors": list(self.unknown)}
        return {key: value for key, value in found.items() if value}


def who_was_seen(
    lineage: Lineage,
    cases: Sequence[Case],
    dataset: str | None,
    *,
    contents: Contents | None = None,
    chosen: bool = False,
) -> Seen:
    """Say of which patients a run or an ancestor saw label or image.

    Args:
        lineage: of the run.
        cases: of the patients.
        dataset: name of their dataset; None where it is not known, so that names count anyway.
        contents: knows the voxels of their images; None recognizes patients by name alone.
        chosen: whether the cases may have chosen the checkpoint, as validation cases do.

    Raises:
        MedSSLError: an image cannot be read.
    """
    labels: dict[str, str] = {}
    images: set[str] = set()
    for case in cases:
        hashes = set(voxel_hashes(case, contents))
        for node in lineage.everyone():
            names = {p for p, own in node.images.items() if hashes & set(own)}
            if dataset is None or node.dataset == dataset:
                names |= {case.patient, case.id}
            if names & ({*node.labels} if chosen else {*node.labels, *node.selection}):
                labels.setdefault(case.patient, node.named)
            elif names & node.images.keys():
                images.add(case.patient)
    unknown = [node.named for node in lineage.everyone() if not node.known]
    return Seen(labels, tuple(sorted(images - labels.keys())), tuple(dict.fromkeys(unknown)))


def refuse_seen(seen: Seen, what: str, *, where: Path | str) -> None:
    """Refuse to score patients whose label a run or an ancestor saw.

    Args:
        seen: from :func:`who_was_seen`.
        what: the cases, such as ``test``.
        where: the run.

    Raises:
        MedSSLError: there are such patients; names them, and what saw their labels.
    """
    if not seen.labels:
        return
    names = sorted(seen.labels)
    listed = ", ".join(names[:_NAMED]) + (
        f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    )
    by = "; ".join(dict.fromkeys(seen.labels[name] for name in names))
    raise MedSSLError(
        f"these {what} patients cannot be scored, their labels were seen in training: {listed} "
        f"(by {by})",
        where=where,
        fix="score other patients, or train what it starts from without these",
    )

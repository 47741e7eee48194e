"""Take the labels of a round into the dataset: those that are in order, all of a change or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.change import alone_in
from medssl.data.datasets.contents import Contents, voxel_hash
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.images.labels import read_label
from medssl.data.images.names import same_name
from medssl.errors import MedSSLError
from medssl.files import default_cache_root
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.rounds.join import join_labels
from medssl.rounds.record import Round, RoundScan, read_round
from medssl.rounds.returned import Returned, read_drafts, read_returned


@dataclass(frozen=True)
class Accepted:
    """What became of the labels of a round.

    Attributes:
        dataset: its folder.
        accepted: ids of the cases that have a label now.
        already: ids of those that had this very label before.
        refused: why the others were not taken, by id.
    """

    dataset: Path
    accepted: tuple[str, ...]
    already: tuple[str, ...]
    refused: Mapping[str, MedSSLError]


def accept(
    round_folder: AnyPath,
    dataset: AnyPath,
    *,
    confirmed: bool = False,
    partial: bool = False,
    display: Display | None = None,
) -> Accepted:
    """Take the labels of a round into the dataset, as labeled training cases.

    Which scan a label is of says the round, not the name of a file. A label must lie on its image's
    grid, hold declared values alone, not be empty, differ from its draft, and not be another
    scan's; the image must be the one that was given out. One that fails keeps all others out.
    The labels are written as the dataset's own, dataset.json is replaced last, and where each label
    comes from is kept with its case. A second call finds everything there and changes nothing.

    Args:
        round_folder: what `next_labels` wrote.
        dataset: folder of the dataset that the round was made for.
        confirmed: the labels were looked at: take those that equal their draft, or share no voxel
            with it.
        partial: take those that are in order, and leave the others for later.
        display: shows progress.

    Raises:
        MedSSLError: no round, another dataset, or a label that is refused. The dataset is then as
            it was.

    Example:
        >>> again = medssl.accept("round0", "grown", confirmed=True)  # taken before
        >>> again.accepted, len(again.already)
        ((), 1)
    """
    folder, display = Path(round_folder), display or Display(quiet=True)
    found = read_round(folder)
    root = read_dataset(Path(dataset)).root
    with alone_in(root):
        existing = read_dataset(root)
        found.refuse_other(existing, folder)
        return _accept(found, folder, existing, display, confirmed=confirmed, partial=partial)


def _accept(
    found: Round,
    folder: Path,
    existing: Dataset,
    display: Display,
    *,
    confirmed: bool,
    partial: bool,
) -> Accepted:
    """Accept into a dataset that nobody else writes to."""
    drafts = read_drafts(found, folder)
    contents = Contents(KnownFiles.below(default_cache_root()), existing.spatial_unit)
    cases = _Cases(existing, contents)
    new: list[tuple[Returned, Case | None]] = []
    already: list[str] = []
    refused: dict[str, MedSSLError] = {}
    with display.counting("reading labels", len(found.scans)) as done:
        for scan in found.scans:
            try:
                case = cases.of(scan, folder / scan.id)
                there = case is not None and case.label is not None
                # What was confirmed before need not be again.
                sure = confirmed or there
                label = read_returned(found, scan, folder, drafts, confirmed=sure)
                if case is not None and case.label is not None:
                    _refuse_second(case, label, folder)
                    already.append(case.id)
                else:
                    new.append((label, case))
            except MedSSLError as error:
                refused[scan.id] = error
            done(scan.id)
    if refused and not partial:
        raise _summary(refused, [label.scan.id for label, _ in new])
    accepted = join_labels(new, found, existing) if new else ()
    return Accepted(existing.root, accepted, tuple(already), refused)


class _Cases:
    """The cases of a dataset, by what they show."""

    def __init__(self, dataset: Dataset, contents: Contents) -> None:
        self.dataset, self.contents = dataset, contents
        self._ids = {same_name(c.id): c for c in (*dataset.training, *dataset.unlabeled)}
        self._test = {same_name(c.id): c for c in dataset.test}

    def of(self, scan: RoundScan, place: Path) -> Case | None:
        """Return the case that a scan in ``place`` is; None: it is new to the dataset.

        Raises:
            MedSSLError: the dataset's image has changed, is a test image, or another scan has the
                id.
        """
        where = self.dataset.root
        named = self._ids.get(same_name(scan.id))
        if named is not None and self.contents.of(named) == scan.voxels:
            return named
        if scan.of_dataset:
            raise MedSSLError(
                f"case '{scan.id}' of the dataset is missing or shows another image now",
                where=where if named is None else named.images[0],
                fix="restore the image that the round was made from",
            )
        for case in (*self._ids.values(), *self._test.values()):
            if self.contents.of(case) == scan.voxels:
                if case in self._test.values():
                    raise MedSSLError(
                        f"the image is test image '{case.id}' of the dataset",
                        where=place,
                        fix="leave it out with --partial: nothing may be trained on it",
                    )
                return case
        if named is not None or same_name(scan.id) in self._test:
            raise MedSSLError(
                f"the dataset has another scan called '{scan.id}'",
                where=where,
                fix="leave it out with --partial, rename the image and choose again",
            )
        return None


def _refuse_second(case: Case, label: Returned, folder: Path) -> None:
    """Refuse a label for a scan that has another one.

    Raises:
        MedSSLError: it differs from the one that is there.
    """
    assert case.label is not None
    values, _ = read_label(case.label)
    if voxel_hash(values) != label.voxels:
        raise MedSSLError(
            f"case '{case.id}' has another label already",
            where=folder / label.scan.id,
            fix=f"leave it out with --partial; to replace the label, replace {case.label}",
        )


def _summary(refused: Mapping[str, MedSSLError], ready: Sequence[str]) -> MedSSLError:
    """Make one error of several: the first in full, the others in a line each."""
    (name, first), *others = refused.items()
    lines = [f"{name}: {first.what}", *(f"{other}: {error.what}" for other, error in others)]
    count = f"{len(refused)} label{'s are' if len(refused) > 1 else ' is'} refused, nothing changed"
    left = f"; {len(ready)} in order can be taken alone with --partial" if ready else ""
    return MedSSLError("\n  ".join((f"{count}{left}", *lines)), where=first.where, fix=first.fix)

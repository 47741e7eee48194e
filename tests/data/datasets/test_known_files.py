"""What is believed of files that were hashed once, and when they are hashed again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from medssl.data.datasets import known_files
from medssl.data.datasets.known_files import PIECE_BYTES, PIECES, KnownFiles, stamp
from medssl.errors import MedSSLError

LARGE = 10 * PIECES * PIECE_BYTES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.nii"
    path.write_bytes(os.urandom(LARGE))
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that are hashed whole."""
    seen: list[str] = []
    original = hashlib.file_digest

    def counted(opened: Any, name: str) -> Any:
        seen.append(Path(opened.name).name)
        return original(opened, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return seen


def edit(path: Path, at: int, *, keep_time: bool = True) -> None:
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    with path.open("r+b") as opened:
        opened.write(data)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truth(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_hashed_once(tmp_path: Path, file: Path, hashed: list[str]) -> None:
    for _ in range(3):
        assert KnownFiles(tmp_path / "known").digest(file) == truth(file)
    assert hashed == ["image.nii"]
    assert KnownFiles(None).digest(file) == KnownFiles(None).whole(file) == truth(file)
    assert len(hashed) == 3


def test_whole_means_now_and_once_per_look(tmp_path: Path, file: Path, hashed: list[str]) -> None:
    files = KnownFiles(tmp_path / "known")
    assert files.whole(file) == files.whole(file) == truth(file)
    assert len(hashed) == 1
    edit(file, 77)
    assert files.whole(file) == truth(file)
    assert KnownFiles(tmp_path / "known").whole(file) == truth(file)
    assert len(hashed) == 3


@pytest.mark.parametrize("keep_time", [True, False])
def test_an_edited_file_is_hashed_again(tmp_path: Path, file: Path, keep_time: bool) -> None:
    """The system's own time of change tells, whatever a program does to the other one."""
    files = KnownFiles(tmp_path / "known")
    first = files.digest(file)
    edit(file, PIECE_BYTES + 1000, keep_time=keep_time)
    assert files.digest(file) == KnownFiles(tmp_path / "known").digest(file) == truth(file) != first


@pytest.mark.parametrize("at", [0, 100, -1, -PIECE_BYTES])
def test_the_sample_tells_where_times_do_not(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(known_files, "_stat", lambda path: (path.stat().st_size, 0, 0, 0))
    KnownFiles(tmp_path / "known").digest(file)
    edit(file, at)
    assert KnownFiles(tmp_path / "known").digest(file) == truth(file)


def test_what_no_sample_shows_is_found_by_verifying(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known_files, "_stat", lambda path: (path.stat().st_size, 0, 0, 0))
    old = KnownFiles(tmp_path / "known").digest(file)
    edit(file, PIECE_BYTES + 1000)
    assert KnownFiles(tmp_path / "known").digest(file) == old
    assert KnownFiles(tmp_path / "known", verify=True).digest(file) == truth(file)
    assert f"{file} has changed, though its size" in caplog.text
    assert KnownFiles(tmp_path / "known").digest(file) == truth(file)


def test_a_small_file_is_its_own_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "_stat", lambda path: (path.stat().st_size, 0, 0, 0))
    path = tmp_path / "small"
    stamps = set()
    for at in range(0, PIECES * PIECE_BYTES, 7001):
        path.write_bytes(bytes(PIECES * PIECE_BYTES))
        edit(path, at)
        stamps.add(str(stamp(path)))
    assert len(stamps) == len(range(0, PIECES * PIECE_BYTES, 7001))


def test_other_facts_are_kept_as_long_as_the_file(tmp_path: Path, file: Path) -> None:
    files = KnownFiles(tmp_path / "known")
    files.digest(file)
    files.keep(file, "voxels", [1, 2])
    again = KnownFiles(tmp_path / "known")
    assert (again.recall(file, "voxels"), again.recall(file, "sha256")) == ([1, 2], truth(file))
    assert again.recall(file, "nothing") is None
    edit(file, 5)
    assert again.recall(file, "voxels") is None
    KnownFiles(None).keep(file, "voxels", 3)
    assert KnownFiles(None).recall(file, "voxels") is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"stamp": 3, "known": {}}', b"\xff"])
def test_a_damaged_record_is_made_again(tmp_path: Path, file: Path, damage: bytes) -> None:
    KnownFiles(tmp_path / "known").digest(file)
    (record,) = (tmp_path / "known").iterdir()
    record.write_bytes(damage)
    assert KnownFiles(tmp_path / "known").digest(file) == truth(file)
    assert KnownFiles(tmp_path / "known").recall(file, "sha256") == truth(file)


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, file: Path) -> None:
    (tmp_path / "known").write_text("a file")
    files = KnownFiles(tmp_path / "known")
    assert files.digest(file) == truth(file)
    files.keep(file, "voxels", 1)
    assert files.recall(file, "voxels") is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for ask in (KnownFiles(tmp_path / "known").digest, KnownFiles(None).whole):
        with pytest.raises(MedSSLError, match="cannot be opened") as caught:
            ask(tmp_path / "gone.nii")
        assert caught.value.where == str(tmp_path / "gone.nii")

"""Files are written whole or not at all, whoever else writes them and whatever the disk says."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusing_disk import FAULTS, SAID, content_of, full

from medssl import files
from medssl.errors import MedSSLError
from medssl.files import lock
from medssl.files.formats import cell


def with_new_file(path: Path, content: bytes) -> None:
    with files.new_file(path, lasting=True) as file:
        file.write(content)


def with_replacing(path: Path, content: bytes) -> None:
    with files.replacing(path, suffix=".nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == path.parent
        temporary.write_bytes(content)


def whole_folder(path: Path, content: int) -> None:
    with files.all_or_nothing(path, "the thing") as building:
        files.write_json(building / "deep" / "a.json", content)


WRITERS: dict[str, tuple[Callable[[Path, Any], None], Any, Any]] = {
    "bytes": (files.write_bytes, b"old", b"new"),
    "text": (files.write_text, "old", "new"),
    "json": (files.write_json, {"a": 1}, {"a": 2}),
    "csv": (files.write_csv, [{"a": 1}], [{"a": 2}]),
    "array": (files.write_array, np.zeros(3), np.ones(3)),
    "arrays": (files.write_arrays, {"a": np.zeros(3)}, {"a": np.ones(3)}),
    "new_file": (with_new_file, b"old", b"new"),
    "replacing": (with_replacing, b"old", b"new"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_refusal_leaves_the_old_file_and_nothing_else(
    name: str, fault: str, tmp_path: Path
) -> None:
    write, old, new = WRITERS[name]
    path = tmp_path / "file"
    write(path, old)
    before = content_of(tmp_path)
    assert list(before) == ["file"]
    with FAULTS[fault](), pytest.raises(MedSSLError) as caught:
        write(path, new)
    assert caught.value.where == str(path)
    assert os.strerror(SAID[fault]) in caught.value.what
    assert caught.value.fix
    assert content_of(tmp_path) == before
    write(path, new)
    assert content_of(tmp_path).keys() == {"file"}
    assert content_of(tmp_path) != before


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [*WRITERS, "append"])
def test_a_refusal_makes_no_file(name: str, fault: str, tmp_path: Path) -> None:
    write, new = (files.append_line, {"a": 1}) if name == "append" else WRITERS[name][::2]
    if name == "append" and fault == "full at the end":
        pytest.skip("a line is appended without a new name")
    with FAULTS[fault](), pytest.raises(MedSSLError) as caught:
        write(tmp_path / "file", new)
    assert os.strerror(SAID[fault]) in caught.value.what
    left = content_of(tmp_path)
    assert left in ({}, {"file": b""}) if name == "append" else left == {}


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_is_written_whole_or_not_at_all(
    fault: str, existing: bool, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    if existing:
        out.mkdir(parents=True)
    before = content_of(tmp_path)
    with FAULTS[fault](), pytest.raises(MedSSLError) as caught:
        whole_folder(out, 1)
    assert caught.value.where == str(out)
    assert os.strerror(SAID[fault]) in caught.value.what
    assert content_of(tmp_path) == before
    whole_folder(out, 1)
    assert content_of(out) == {"deep": None, "deep/a.json": b"1\n"}
    assert content_of(tmp_path).keys() == {"new", "new/out", "new/out/deep", "new/out/deep/a.json"}


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(MedSSLError, match="the folder of the thing exists and is not empty"):
        whole_folder(tmp_path, 1)
    with pytest.raises(MedSSLError, match="exists and is not empty"):
        whole_folder(tmp_path / "mine", 1)
    assert content_of(tmp_path) == {"mine": b"x"}


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with files.all_or_nothing(tmp_path / "a" / "b", "the thing") as building:
            (building / "x").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert content_of(tmp_path) == {}


def test_a_file_that_cannot_be_read_inside_is_named(tmp_path: Path) -> None:
    def copies() -> None:
        with files.all_or_nothing(tmp_path / "out", "the copy") as building:
            files.write_bytes(building / "x", (tmp_path / "gone").read_bytes())

    with pytest.raises(MedSSLError, match="cannot write the copy: No such file") as caught:
        copies()
    assert caught.value.where == str(tmp_path / "gone")


def test_files_move_into_a_folder_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, building = tmp_path / "data", tmp_path / "building"
    for path, text in (
        (target / "list.json", "old"),
        (building / "list.json", "new"),
        (building / "images" / "a", "a"),
        (building / "labels" / "a", "a"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    options = {"replaced": ("notes.json", "list.json"), "fix": "rename it"}
    (building / "notes.json").write_text("notes")
    with monkeypatch.context() as patched:
        replace = os.replace

        def last_fails(source: str, name: str) -> None:
            if str(name).endswith("list.json"):
                raise OSError(28, "No space left on device")
            replace(source, name)

        patched.setattr(os, "replace", last_fails)
        with pytest.raises(MedSSLError, match="No space left"):
            files.move_in(building, target, **options)
    assert [p.name for p in target.rglob("*")] == ["list.json"]
    assert (target / "list.json").read_text() == "old"

    for name in ("images/a", "labels/a", "notes.json"):
        (building / name).write_text("again")
    (target / "labels").mkdir()
    (target / "labels" / "a").write_text("mine")
    with pytest.raises(MedSSLError, match="labels already has a file a"):
        files.move_in(building, target, **options)
    assert sorted(p.name for p in target.rglob("*")) == ["a", "labels", "list.json"]
    (target / "labels" / "a").unlink()
    (building / "images" / "a").write_text("again")
    files.move_in(building, target, **options)
    assert (target / "list.json").read_text() == "new"
    assert (target / "images" / "a").read_text() == "again"


def test_only_one_of_two_writers_of_a_folder_wins(tmp_path: Path) -> None:
    def second() -> None:
        with files.all_or_nothing(tmp_path / "out", "the thing") as building:
            (building / "x").write_text("second")
            whole_folder(tmp_path / "out", 1)

    with pytest.raises(MedSSLError, match="cannot write the thing"):
        second()
    assert content_of(tmp_path / "out") == {"deep": None, "deep/a.json": b"1\n"}
    assert content_of(tmp_path).keys() == {"out", "out/deep", "out/deep/a.json"}


WRITE_OFTEN = """
import sys
from pathlib import Path
from medssl.files import write_json
mark, path = int(sys.argv[1]), Path(sys.argv[2])
for _ in range(200):
    write_json(path, {"mark": mark, "long": [mark] * 500})
"""


def test_processes_that_write_one_file_do_not_clash(tmp_path: Path) -> None:
    """With one temporary name for all, a writer renames what another has only begun."""
    path = tmp_path / "shared.json"
    files.write_json(path, {"mark": 0, "long": [0] * 500})
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE_OFTEN, str(n), str(path)], stderr=-1)
        for n in (1, 2)
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = json.loads(path.read_text())
        assert content["long"] == [content["mark"]] * 500
        seen.add(content["mark"])
        time.sleep(0.002)
    for writer in writers:
        assert writer.wait() == 0, writer.communicate()[1].decode()
    assert seen >= {1, 2}
    assert [p.name for p in tmp_path.iterdir()] == ["shared.json"]


def test_names_of_files_being_written_are_told_from_others(tmp_path: Path) -> None:
    with files.new_file(tmp_path / "a.json"):
        (temporary,) = tmp_path.iterdir()
        assert files.is_leftover(temporary)
        assert str(os.getpid()) in temporary.name
    assert not files.is_leftover(tmp_path / "a.json")
    assert not files.is_leftover(tmp_path / ".lock")


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    files.write_json(path, 1)
    assert json.loads(path.read_text()) == 1


def test_the_earlier_file_is_kept(tmp_path: Path) -> None:
    path, earlier = tmp_path / "a", tmp_path / "before"
    for content in (b"1", b"2", b"3"):
        with files.new_file(path, lasting=True, keep=earlier) as file:
            file.write(content)
    assert content_of(tmp_path) == {"a": b"3", "before": b"2"}


def test_a_folder_to_write_to_is_tried(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "deep")
    assert content_of(tmp_path) == {"new": None, "new/deep": None}
    for name, fault in FAULTS.items():
        if name != "full at the end":
            with fault(), pytest.raises(MedSSLError, match=os.strerror(SAID[name])):
                files.check_writable(tmp_path)
    assert content_of(tmp_path) == {"new": None, "new/deep": None}


def test_a_folder_to_write_to_is_tried_and_not_made(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "deep", make=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "new" / "deep", tmp_path / ("x" * 300)):
        with pytest.raises(MedSSLError, match="cannot write"):
            files.check_writable(path, make=False)


# ---------------------------------------------------------------------- what is in them


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.333333"),
        (0.5, "0.5"),
        (1234567.8, "1234567.8"),
        (1e-9, "0"),
        (-1e-9, "0"),
        (-0.25, "-0.25"),
        (100.0, "100"),
        (float("nan"), ""),
        (float("inf"), "inf"),
        (np.float32(0.25), "0.25"),
        (np.float64("nan"), ""),
        (np.int64(3), np.int64(3)),
        (3, 3),
        (True, True),
        (None, None),
        ("0.10", "0.10"),
    ],
)
def test_a_cell_of_a_table(value: Any, text: Any) -> None:
    assert cell(value) == text
    assert type(cell(value)) is type(text)


def test_a_table(tmp_path: Path) -> None:
    rows = [{"case": "a, b", "x": 0.1}, {"case": "é", "x": math.nan, "more": None}]
    files.write_csv(tmp_path / "all.csv", rows)
    assert (tmp_path / "all.csv").read_bytes() == 'case,x,more\n"a, b",0.1,\né,,\n'.encode()
    files.write_csv(tmp_path / "some.csv", rows, columns=["x", "none"])
    assert (tmp_path / "some.csv").read_bytes() == b"x,none\n0.1,\n,\n"
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["a, b", "é"]


def test_json_is_strict(tmp_path: Path) -> None:
    content = {
        "nan": math.nan,
        "deep": [{"inf": -math.inf}, (1, np.float32(0.5))],
        "numpy": [np.int64(3), np.float64("nan"), np.bool_(True), np.array(2)],
        "path": tmp_path,
        "text": "ä",
        "none": None,
        "yes": True,
        1: 2,
    }
    files.write_json(tmp_path / "a.json", content)

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    assert json.loads((tmp_path / "a.json").read_text("utf-8"), parse_constant=refuse) == {
        "nan": None,
        "deep": [{"inf": None}, [1, 0.5]],
        "numpy": [3, None, True, 2],
        "path": str(tmp_path),
        "text": "ä",
        "none": None,
        "yes": True,
        "1": 2,
    }
    assert "ä" in (tmp_path / "a.json").read_text("utf-8")


def test_a_name_that_is_no_text_can_be_recorded(tmp_path: Path) -> None:
    name = os.fsdecode(b"K\xe4se.nii")
    files.write_json(tmp_path / "a.json", [name])
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == [name]


def test_lines_keep_nan(tmp_path: Path) -> None:
    files.append_line(tmp_path / "a.jsonl", {"a": math.nan})
    files.append_line(tmp_path / "a.jsonl", {"a": 1})
    first, second = (tmp_path / "a.jsonl").read_text().splitlines()
    assert math.isnan(json.loads(first)["a"])
    assert json.loads(second) == {"a": 1}


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    files.append_line(path, {"a": 1})
    before = path.read_bytes()
    with full(len(before) + 4), pytest.raises(MedSSLError, match="File too large"):
        files.append_line(path, {"a": 2})
    assert path.read_bytes() == before


def test_arrays_come_back(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    files.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array)
    for compressed in (False, True):
        files.write_arrays(tmp_path / "a.npz", {"x": array, "1": array[0]}, compressed=compressed)
        with np.load(tmp_path / "a.npz") as stored:
            assert set(stored.files) == {"x", "1"}
            np.testing.assert_array_equal(stored["x"], array)


# ---------------------------------------------------------------------- the lock


def busy(handle: int | None) -> MedSSLError:
    return MedSSLError("own" if handle is None else "other")


HOLD = """
import sys
from pathlib import Path
from medssl.files import locked
with locked(Path(sys.argv[1]), stays=sys.argv[2] == "stays"):
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
"""


class Holder:
    """Another process that holds a lock until it is told to let go."""

    def __init__(self, path: Path, stays: bool) -> None:
        how = "stays" if stays else "goes"
        command = [sys.executable, "-c", HOLD, str(path), how]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.hear("held")

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.hear("free")
        self.process.wait()


@pytest.mark.skipif(lock.fcntl is None, reason="needs the kernel's locks")
@pytest.mark.parametrize("stays", [True, False])
def test_another_process_is_kept_out(tmp_path: Path, stays: bool) -> None:
    path = tmp_path / ".lock"
    holder = Holder(path, stays)
    try:
        for _ in range(2):
            with pytest.raises(MedSSLError, match="other"), files.locked(path, busy=busy):
                pass
        got: list[float] = []

        def wait() -> None:
            with files.locked(path, stays=stays):
                got.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        assert not got
        holder.let_go()
        thread.join(timeout=20)
        assert got
    finally:
        holder.process.kill()
        holder.process.wait()
    assert path.exists() == stays
    with files.locked(path, busy=busy):
        pass


@pytest.mark.skipif(lock.fcntl is None, reason="needs the kernel's locks")
def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    holder = Holder(tmp_path / ".lock", stays=True)
    holder.process.kill()
    holder.process.wait()
    with files.locked(tmp_path / ".lock", busy=busy):
        pass


def test_threads_of_one_process_keep_each_other_out(tmp_path: Path) -> None:
    inside, most = [0], []

    def work() -> None:
        for _ in range(20):
            with files.locked(tmp_path / ".lock"):
                inside[0] += 1
                most.append(inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 60
    assert set(most) == {1}


def test_one_process_does_not_get_its_lock_twice(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with files.locked(path):
        for _ in range(2):
            with pytest.raises(MedSSLError, match="own"), files.locked(path, busy=busy):
                pass
    with files.locked(path, busy=busy):
        pass


def _take(path: Path, answer: Any) -> None:
    try:
        with files.locked(path, busy=busy):
            answer.put("got it")
    except MedSSLError as error:
        answer.put(error.what)


@pytest.mark.skipif(lock.fcntl is None, reason="needs fork and the kernel's locks")
def test_a_forked_child_does_not_think_that_it_holds_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    with files.locked(tmp_path / ".lock"):
        child = context.Process(target=_take, args=(tmp_path / ".lock", answer))
        child.start()
        assert answer.get(timeout=20) == "other"
        child.join()


def test_a_lock_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    refused = pytest.raises(MedSSLError, match="Read-only")
    with FAULTS["read-only"](), refused as caught, files.locked(tmp_path / ".lock"):
        pass
    assert caught.value.where == str(tmp_path)

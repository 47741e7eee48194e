"""The counter of code counts by the rules that it states."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import code_size  # noqa: E402

SOURCE = '''"""A module.

Two lines more.
"""

import os  # counts once

TEXT = """
one value on three lines
"""
"""What stands below a name is a docstring too."""


class Thing:
    """A class."""

    def method(self, a, /, b, *rest, c=1, **others):
        """Say nothing."""
        # a comment
        return [
            a,
            b,
        ]

    @classmethod
    def make(cls):
        return cls()


def self_is_a_value(value):
    def inside(): ...

    return inside
'''


def test_code_lines_are_neither_docstrings_nor_comments() -> None:
    size = code_size.size_of(SOURCE)
    # import, TEXT, class, def with its return, decorator and method, the last function
    assert size.lines == 1 + 3 + 1 + 5 + 3 + 3
    assert size.longest_file == len(SOURCE.splitlines())


def test_parameters_are_counted_without_self_cls_and_stars() -> None:
    size = code_size.size_of(SOURCE)
    assert size.functions == 4
    assert dict(size.parameters) == {3: 1, 0: 2, 1: 1}
    assert size.many_parameters == 0


def test_a_long_function_is_long_from_def_to_end_or_in_code() -> None:
    docstring = '    """' + "\n".join(f"    {i}" for i in range(58)) + '"""\n'
    assert code_size.size_of("def f():\n" + docstring + "    return 1\n").long_functions == 0
    longer = code_size.size_of("def f():\n" + docstring + "    return 1\n\n\ndef g(): ...\n")
    assert (longer.long_functions, longer.long_in_code) == (0, 0)
    wordy = code_size.size_of("def f():\n" + docstring + "\n    # why\n    return 1\n")
    assert (wordy.long_functions, wordy.long_in_code) == (1, 0)
    code = code_size.size_of("def f():\n" + "    x = 1\n" * 61)
    assert (code.long_functions, code.long_in_code) == (1, 1)


def test_eight_parameters_are_many() -> None:
    seven, eight = (f"def f{n}(self, {', '.join('abcdefgh'[:n])}): ...\n" for n in (7, 8))
    size = code_size.size_of(seven + eight)
    assert size.many_parameters == 1
    assert size.share == 50


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_rooms_of_two_folders_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old", {"a/one.py": "x = 1\ny = 2\n", "gone/b.py": "x = 1\n"})
    new = write(tmp_path / "new", {"a/one.py": "x = 1\n", "a/deep/two.py": "", "top.py": "x = 1\n"})
    output = tmp_path / "sizes.json"
    assert code_size.main([str(new), "--before", str(old), "--output", str(output)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[2][:4] == ["a", "2", ">", "1"]
    content = json.loads(output.read_text())
    assert {room: content["after"][room]["lines"] for room in content["after"]} == {
        "(loose files)": 1,
        "a": 1,
        "total": 2,
    }
    assert content["before"]["gone"]["lines"] == 1
    assert content["before"]["total"]["files"] == 2


def test_a_revision_is_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "tree" / "package", {"a/one.py": "x = 1\ny = 2\n"})

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    (folder / "a" / "one.py").write_text("x = 1\n")
    assert code_size.main([str(folder), "--before", "HEAD", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["before"]["a"]["lines"] == 2
    assert content["after"]["a"]["lines"] == 1


def test_an_unknown_revision_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a/one.py": "x = 1\n"})
    with pytest.raises(SystemExit, match="git"):
        code_size.main([str(folder), "--before", "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no Python files"):
        code_size.main([str(tmp_path / "empty")])

"""One progress: on a terminal a bar, elsewhere a few lines, and nothing where it is quiet."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from medssl.progress import Display, describe_terms, looking_at, shown_on


def terminal() -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, force_terminal=True, width=100)), text


def test_items_and_their_parts_are_counted() -> None:
    display, text = terminal()
    with display.counting_parts("reading", 2) as (done, part):
        part("a", 1, 3)
        done("a")
        done("b")
    assert "reading" in text.getvalue()
    assert "2/2" in text.getvalue()


def test_names_in_brackets_are_text() -> None:
    display, text = terminal()
    with display.counting_parts("[/]", 1) as (done, part):
        part("scan [/b]", 1, 3)
        done("scan [/b]")
    display.say(":heart: [/]")
    assert "scan [/b]" in text.getvalue()
    assert ":heart: [/]" in text.getvalue()


@pytest.mark.parametrize("total", [0, 3])
def test_nothing_is_shown_where_it_is_quiet(total: int) -> None:
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True), quiet=True)
    with display.counting("reading", total) as done:
        done("a")
    display.say("a line")
    assert text.getvalue() == ""


def test_what_is_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Display(quiet=True).say("a line")
    assert "a line" in caplog.text


def test_files_that_are_looked_at_are_shown_on_the_display_around() -> None:
    paths = [Path("one.dcm"), Path("two.dcm")]
    assert list(looking_at(paths, "headers")) == paths
    display, text = terminal()
    with shown_on(display):
        assert list(looking_at(paths, "headers")) == paths
    assert "headers" in text.getvalue()
    assert "2/2" in text.getvalue()
    before = text.getvalue()
    assert list(looking_at(paths, "headers")) == paths
    assert text.getvalue() == before


def test_terms_are_grouped() -> None:
    terms = {"weight": 0.5, "loss/total": 1.25, "loss/labeled": 1.0}
    assert describe_terms(terms) == "loss: total 1.250, labeled 1.000  weight 0.500"

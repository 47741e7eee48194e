"""The options that open the door to code of the user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medssl import plugins
from medssl.errors import MedSSLError

OPTION, ALLOW = "--plugin", "--allow-changed-plugin"


def take_plugins(arguments: Sequence[str]) -> list[str]:
    """Load the plugins of a command line, and return what else it says.

    They are put into the environment, so that jobs and other processes of a run load them too.

    Raises:
        MedSSLError: a file is missing, or fails.
    """
    rest: list[str] = []
    files: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            files.append(next(words, ""))
        elif word.startswith(f"{OPTION}="):
            files.append(word.partition("=")[2])
        elif word == ALLOW:
            os.environ[plugins.ALLOW_CHANGED] = "1"
        else:
            rest.append(word)
    if "" in files:
        raise MedSSLError("it names no file", where=OPTION, fix=f"write {OPTION} FILE.py")
    if files:
        paths = [str(Path(file).expanduser().resolve()) for file in files]
        known = [p for p in os.environ.get(plugins.PLUGINS, "").split(os.pathsep) if p]
        os.environ[plugins.PLUGINS] = os.pathsep.join(dict.fromkeys([*known, *paths]))
        plugins.load_named()
    return rest

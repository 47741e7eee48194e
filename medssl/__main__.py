"""``python -m medssl`` is the command line."""

from medssl.cli import main

main()

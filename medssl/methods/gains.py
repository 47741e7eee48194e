"""What each method added to labels alone where all were measured alike: for ``medssl methods``.

Hippocampus with 4 labels, small network at half resolution, 1000 iterations, as the methods are
shipped. Those that mix were measured with mixing on the development patients, two seeds
(``docs/evidence.md``); the others on 40 test patients, three seeds, two of ``rail`` and ``umct``
(``docs/hippocampus.md``), and ``self_training`` on the development patients, three seeds
(``docs/self_training.md``).
"""

from __future__ import annotations

from collections.abc import Mapping

GAINS: Mapping[str, tuple[float, float, float]] = {
    "anatomical": (0.0001, -0.0034, 0.0040),
    "bcp": (0.0128, 0.0053, 0.0205),
    "cps": (0.0079, -0.0013, 0.0172),
    "fixmatch": (0.0052, -0.0040, 0.0143),
    "mean_teacher": (0.0062, 0.0001, 0.0122),
    "pseudo_supervisor": (-0.0013, -0.0050, 0.0025),
    "rail": (0.0052, 0.0009, 0.0098),
    "self_training": (0.0097, -0.0019, 0.0213),
    "uamt": (0.0062, 0.0001, 0.0123),
    "umct": (0.0025, -0.0031, 0.0081),
}
"""Mean Dice beyond that of labels alone, and its 95 % interval."""


def gain_of(method: str) -> str:
    """Return the gain in words; empty where it was not measured.

    Args:
        method: its name.
    """
    if method not in GAINS:
        return ""
    mean, low, high = GAINS[method]
    told = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return told if low > 0 else f"not shown: {told}"

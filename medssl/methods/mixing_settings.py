"""The setting of methods that mix unlabeled patches; see :mod:`medssl.ops.perturb`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from medssl.methods.fields import setting
from medssl.methods.settings import MethodSettings
from medssl.ops.variants import Mixing


class MixingSettings(MethodSettings):
    """Settings of a method whose student sees unlabeled patches that are mixed."""

    before: ClassVar[Mapping[str, Any]] = {"mixing": "none"}

    mixing: Mixing = setting("cutmix", "Yun 2019, French 2020")
    """Of unlabeled patches whose guesses are made: with cutmix each one has a box of the next in
    it, its sides 1/4 to 3/4 of the patch's."""

    @property
    def mixes(self) -> bool:
        """Whether patches are mixed with each other."""
        return self.mixing != "none"

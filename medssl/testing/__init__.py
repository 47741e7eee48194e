"""The contract of methods, for anyone's method: ``check_method`` runs it, without pytest."""

from medssl.testing.checks import CHECKS, check_method
from medssl.testing.contract import ContractError, NotApplicable

__all__ = ["CHECKS", "ContractError", "NotApplicable", "check_method"]

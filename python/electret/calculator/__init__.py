"""ASE calculator of a trained model."""

from electret.calculator.calculator import Calculator
from electret.calculator.conditions import ExtrapolationWarning

__all__ = ["Calculator", "ExtrapolationWarning"]

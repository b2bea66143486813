"""ASE calculator of a trained model."""

from electret.calculator.batches import evaluate
from electret.calculator.calculator import Calculator
from electret.calculator.committee import Committee
from electret.calculator.conditions import ExtrapolationWarning
from electret.calculator.sum import SumCalculator

__all__ = ["Calculator", "Committee", "ExtrapolationWarning", "SumCalculator", "evaluate"]

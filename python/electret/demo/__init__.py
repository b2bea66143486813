"""The demonstration of `electret demo`: train, evaluate, run molecular dynamics in a field, plot."""

from electret.demo.run import DemoResult, run

__all__ = ["DemoResult", "run"]

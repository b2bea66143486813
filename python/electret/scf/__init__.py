"""Self-consistent densities: the equations, their solvers, and derivatives through the solution."""

from electret.scf.state import Record, ScfRequest, State

__all__ = ["Record", "ScfRequest", "State"]

"""Self-consistent densities: equations R(p, mu) = 0, their solvers, and derivatives through the solution.

Imports `electret.kernels`, `electret.torch` and `electret.cuda`; families of models implement
`problem.Problem`.
"""

from electret.scf.electrostatics import ExternalCharges
from electret.scf.state import Record, ScfRequest, State

__all__ = ["ExternalCharges", "Record", "ScfRequest", "State"]

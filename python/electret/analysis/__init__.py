"""Models on data: errors per group, statistics of the SCF, response of the dipole to a field; comparisons."""

from electret.analysis.assessment import Assessment, assess
from electret.analysis.comparison import Candidate, Comparison, compare
from electret.analysis.field_response import FieldDipoles, FieldResponse
from electret.analysis.scf_statistics import ScfStatistics, UnconvergedFrame

__all__ = [
    "Assessment",
    "Candidate",
    "Comparison",
    "FieldDipoles",
    "FieldResponse",
    "ScfStatistics",
    "UnconvergedFrame",
    "assess",
    "compare",
]

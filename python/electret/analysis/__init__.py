"""Models on data: errors per group, statistics of the SCF, response of the dipole to a field; comparisons."""

from typing import NoReturn

from electret.analysis.assessment import Assessment, assess
from electret.analysis.comparison import Comparison, Entry, compare
from electret.analysis.field_response import FieldDipoles, FieldResponse
from electret.analysis.infrared import InfraredSpectrum, dipole_rate, infrared_spectrum, spectrum_of_rates
from electret.analysis.scf_statistics import ScfStatistics, UnconvergedFrame

__all__ = [
    "Assessment",
    "Comparison",
    "Entry",
    "FieldDipoles",
    "FieldResponse",
    "InfraredSpectrum",
    "ScfStatistics",
    "UnconvergedFrame",
    "assess",
    "compare",
    "dipole_rate",
    "infrared_spectrum",
    "spectrum_of_rates",
]


def __getattr__(name: str) -> NoReturn:
    renamed = "; it is called Entry" if name == "Candidate" else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{renamed}")

"""Probes: measurements of physical properties of models on given structures, made by `electret compare`."""

from electret.analysis.probes.base import Probe, ProbeTable
from electret.analysis.probes.kinds import PROBES, parse_probe
from electret.analysis.probes.report import plot_probes, probe_sections, write_probe_tables
from electret.analysis.probes.run import ProbeReport, check_probes, run_probes

__all__ = [
    "PROBES",
    "Probe",
    "ProbeReport",
    "ProbeTable",
    "check_probes",
    "parse_probe",
    "plot_probes",
    "probe_sections",
    "run_probes",
    "write_probe_tables",
]

"""The tables of targets: one module per table, each with what it measures, its targets and its report.

A module has `TITLE`, `TEXT` (what the columns mean), `cases(options)` (arguments of `measure`, each run in a
fresh process), `measure(...)` (yields rows) and `table(rows)` (Markdown).
"""

SECTIONS = (
    "ceilings",
    "electrostatics",
    "features",
    "charges",
    "neighbors",
    "scaling",
    "training",
    "auto",
)

"""Helpers of every layer without physics: console, output files, locks, YAML, deferred imports."""

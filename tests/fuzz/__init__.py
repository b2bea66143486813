"""Seeded fuzzing of the public interface: `make fuzz MINUTES=10`, or `python -m fuzz --help` in tests/."""

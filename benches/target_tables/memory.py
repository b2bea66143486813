"""Peak memory of this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")


class PeakMemory:
    """Growth of the resident memory over what it was when this was made, MB.

    On Linux from VmHWM, which `restart` sets back. (ru_maxrss would begin with that of the parent process.)
    """

    def __init__(self) -> None:
        self.baseline = _status("VmRSS")

    def restart(self) -> None:
        """Reset the peak."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float | None:
        peak = _status("VmHWM")
        if peak is None or self.baseline is None:
            return None
        return round(max(peak - self.baseline, 0) / 1e3, 2)


def _status(name: str) -> int | None:
    """kB."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), None)

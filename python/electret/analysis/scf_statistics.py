"""How the SCF of a model fared on a data set; frames without a converged density are named and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from electret.data import Frame
from electret.graph import Graph

__all__ = ["ScfStatistics", "UnconvergedFrame", "converged"]

Output = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class UnconvergedFrame:
    """A frame whose density did not converge.

    Attributes:
        where: file and index of the frame.
        iterations: spent on it.
        residual: of the last iteration, in the units of the solver's tolerance.
    """

    where: str
    iterations: int
    residual: float


@dataclass
class ScfStatistics:
    """Iterations of the frames that converged, and the frames that did not.

    Attributes:
        iterations: of each converged frame.
        unconverged: the others.
    """

    iterations: list[int] = field(default_factory=list)
    unconverged: list[UnconvergedFrame] = field(default_factory=list)

    def add(self, frames: Sequence[Frame], output: Output) -> None:
        """Take in the output of a self-consistent model for a batch of `frames`."""
        counts = output["scf_iterations"].tolist()
        residuals = output["scf_residual"].tolist()
        for frame, done, count, residual in zip(
            frames, output["scf_converged"].tolist(), counts, residuals, strict=True
        ):
            if done:
                self.iterations.append(int(count))
            else:
                self.unconverged.append(UnconvergedFrame(frame.where, int(count), float(residual)))

    @property
    def n_frames(self) -> int:
        """Frames taken in."""
        return len(self.iterations) + len(self.unconverged)

    @property
    def mean_iterations(self) -> float:
        """Mean over the converged frames, nan where there is none."""
        return float(np.mean(self.iterations)) if self.iterations else float("nan")

    @property
    def most_iterations(self) -> int:
        """Largest number among the converged frames, 0 where there is none."""
        return max(self.iterations, default=0)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; the mean is null where no frame converged."""
        return {
            "n_frames": self.n_frames,
            "mean_iterations": self.mean_iterations if self.iterations else None,
            "most_iterations": self.most_iterations,
            "unconverged": [
                {
                    "frame": entry.where,
                    "iterations": entry.iterations,
                    "residual": entry.residual if np.isfinite(entry.residual) else None,
                }
                for entry in self.unconverged
            ],
        }

    def lines(self, most: int = 10) -> list[str]:
        """A summary for people; at most `most` unconverged frames are named."""
        text = f"SCF: {self.n_frames} frames"
        if self.iterations:
            text += f", {self.mean_iterations:.1f} iterations on average, {self.most_iterations} at most"
        if not self.unconverged:
            return [f"{text}, all converged"]
        lines = [f"{text}, {len(self.unconverged)} NOT CONVERGED and left out of all figures:"]
        lines += [
            f"  {entry.where}: residual {entry.residual:.2e} after {entry.iterations} iterations"
            for entry in self.unconverged[:most]
        ]
        if len(self.unconverged) > most:
            lines.append(f"  and {len(self.unconverged) - most} more")
        return lines


def converged(graph: Graph, output: Output) -> torch.Tensor:
    """True for each system with a usable density, `[n_systems]` bool; always where it is explicit."""
    if "scf_converged" in output:
        return output["scf_converged"]
    return torch.ones(graph.n_systems, dtype=torch.bool, device=graph.device)

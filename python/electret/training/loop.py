"""The training loop: stages, epochs, steps, checkpoints. Resuming continues bit for bit on the CPU."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from electret.data.dataset import Batches, GraphDataset
from electret.graph import Graph
from electret.models import Model
from electret.models.base import NOT_FINITE
from electret.support import ranks
from electret.training.checkpoint import (
    Checkpoint,
    optimizer_state,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from electret.training.config import StageConfig, TrainingConfig
from electret.training.convergence import add_convergence, convergence_row, epoch_columns
from electret.training.errors import NonFiniteError, TrainingInterrupted
from electret.training.evaluation import compute, evaluate_dataset
from electret.training.loss import Loss
from electret.training.metrics import Metrics
from electret.training.optimization import (
    MovingAverage,
    Schedule,
    averaged_weights,
    build_optimizer,
    clip_gradient,
)
from electret.training.progress import DIVERGED, Progress
from electret.training.resumption import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    check_data,
    check_options,
    fingerprints,
)
from electret.training.run_log import RunLog
from electret.training.scales import scaled
from electret.training.self_consistency import has_density, scf_options
from electret.training.targets import resolved_mode

__all__ = ["Trainer", "Trial"]

REPEATED = 10.0
"""Seconds in which a second signal is the first one, which `torchrun` passes on to its ranks."""


@dataclass(frozen=True)
class Trial:
    """One step of a stage without the change of the parameters."""

    batches: int
    """Steps of an epoch."""
    frames: int
    """Frames of the batch."""
    step_seconds: float
    evaluation_seconds: float
    """Time of an evaluation of the batch, as in validation."""
    terms: dict[str, float]
    """Weighted terms of the loss."""
    gradient_norm: float
    sums: dict[str, float]
    """Counts of the self-consistency, as of an epoch."""


class Trainer:
    """Trains a model through the stages of a config.

    Connected ranks share every batch: each computes its frames, and the sums of the loss, the numbers of
    labels and the gradients are added up, so that a step is that of one process within rounding. The first
    rank writes.

    Args:
        config: the run.
        model: on the device of the run.
        train_set: frames to train on; its random order depends on seed and epoch alone.
        valid_set: frames whose loss decides about best model, schedule and early stop.
        log: where epochs are shown and recorded.
        references: isolated atoms, whose energies are in the model.

    Attributes:
        stages: of the config, with the weights that their `loss.scales` stand for.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: Model,
        train_set: GraphDataset,
        valid_set: GraphDataset,
        log: RunLog,
        references: GraphDataset | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.train_set = train_set
        self.valid_set = valid_set
        self.log = log
        self.stages = scaled(config, train_set, model.statistics.e0s, log.console)
        self.progress = Progress()
        self.device = torch.device(config.device)
        self.average = None if config.ema_decay is None else MovingAverage(model, config.ema_decay)
        self._data = fingerprints(train_set, valid_set, references)
        self._stop_signal = 0  # received by this rank
        self._stopping = 0  # received by any rank before the last step
        self._begin_stage()

    @property
    def stage(self) -> StageConfig:
        """The current stage."""
        return self.stages[self.progress.stage]

    def run(self) -> None:
        """Train to the end. Raises `TrainingInterrupted` after Ctrl-C or a termination signal, checkpoint
        written."""
        self.log.start(self.progress.history)
        with self._stopping_on_signals():
            try:
                self._run_stages()
            except BrokenPipeError:
                self._interrupt(getattr(signal, "SIGPIPE", 13), "the reader of standard output is gone: ")

    def _run_stages(self) -> None:
        while True:
            if math.isnan(self.progress.start_loss):
                self.progress.start_loss = _finite_loss(self._validate())
            while not self._stage_finished():
                self._run_epoch()
            if self.progress.stage + 1 == len(self.config.stages):
                return
            self.progress.begin_stage(self.progress.stage + 1)
            self._begin_stage()

    def load_best(self) -> None:
        """Give the model the averaged weights of the best epoch of the last stage."""
        path = self.config.run_folder / BEST_CHECKPOINT
        best = read_checkpoint(path).group("model") if ranks.is_first() else {}
        self.model.load_state_dict(ranks.from_first(best))

    def _begin_stage(self) -> None:
        self.optimizer = build_optimizer(self.model, self.stage)
        self.schedule = Schedule(self.optimizer, self.stage.scheduler, self.stage.epochs)
        self.loss = Loss(self.stage.loss, self.config.model.description.periodic_responses)
        family = self.config.model.family
        self._scf = scf_options(family, self.stage)
        direct = resolved_mode(family, self.stage.mode) == "direct"
        self._frames = np.flatnonzero(has_density(self.train_set.frames)) if direct else None

    def _stage_finished(self) -> bool:
        stopped = self.stage.early_stop is not None and self.progress.stale_epochs >= self.stage.early_stop
        return stopped or self.progress.stage_epoch >= self.stage.epochs

    def _run_epoch(self) -> None:
        started = time.perf_counter()
        progress = self.progress
        batches = self._batches()
        with self.log.epoch_bar(
            progress.epoch + 1, self.config.n_epochs, len(batches), progress.batch
        ) as advance:
            rest = self._shares(batches[progress.batch :])
            graphs = self.train_set.load([own for own in rest if own] if ranks.connected() else rest)
            for indices in rest:
                self._step(indices, next(graphs).to(device=self.device) if indices else None)
                progress.batch += 1
                advance()
                if self._stopping and progress.batch < len(batches):
                    self._interrupt(self._stopping)
        metrics = self._validate()
        row = self._row(metrics, time.perf_counter() - started)
        loss, limit = _finite_loss(metrics), progress.most_credible_loss
        best = progress.finish_epoch(loss)
        self.schedule.step(loss)
        progress.history.append(row)
        if best:
            self._save_best()
        self.save()
        self.log.epoch(row, best)
        if loss > limit:
            self._diverged(loss, limit)
        if stop := max(ranks.everywhere(self._stop_signal)):
            self._interrupt(stop)

    def _batches(self) -> Batches:
        """Frames of the batches of the running epoch."""
        return self.train_set.shuffled_batches(
            self.config.data.limits, self.config.seed, self.progress.epoch, self._frames
        )

    def _diverged(self, loss: float, limit: float) -> None:
        """Report the epoch, or end the run without a sign of recovery."""
        message = (
            f"epoch {self.progress.epoch} has diverged: its validation loss {loss:.3g} is "
            f"{loss / self.progress.start_loss:.1g} times that before the stage; lower the learning "
            "rate or clip_grad"
        )
        if loss > DIVERGED * limit:
            raise NonFiniteError(f"{message}. The best epoch before, if any, is in {BEST_CHECKPOINT}")
        self.log.message(f"warning: {message}")

    def _shares(self, batches: Sequence[list[int]]) -> Sequence[list[int]]:
        """Frames of each batch that this rank computes."""
        if not ranks.connected():
            return batches
        atoms = self.train_set.frames.column("atoms", 0)
        return [ranks.share(indices, atoms[indices].tolist()) for indices in batches]

    def _step(self, indices: Sequence[int], graph: Graph | None) -> None:
        """One optimiser step on a batch, of which these are the frames of this rank, None without any."""
        terms, n_counted = self._gradient(indices, graph)
        if not terms:
            return  # no frame of the batch has a label of the loss, or none converged
        norm = clip_gradient(self.optimizer, self.stage.clip_grad)
        if not math.isfinite(norm):
            raise self._non_finite(indices, f"the gradient norm is {norm}")
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self._count(terms, n_counted)

    def trial(self, stage: int) -> Trial:
        """One step of a stage on its first batch, in one process, without the change of the parameters."""
        if stage:
            self.progress.begin_stage(stage)
            self._begin_stage()
        batches = self._batches()
        graph = self.train_set.batch(batches[0]).to(device=self.device)
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            self.progress.sums = {}
            terms, _ = self._gradient(batches[0], graph)
            norm = clip_gradient(self.optimizer, None)
            step = time.perf_counter() - started
        started = time.perf_counter()
        weights = self.stage.loss.weights
        with torch.no_grad():
            output = compute(
                self.model,
                self.train_set,
                batches[0],
                graph,
                weights,
                forces="forces" in weights,
                stress="stress" in weights and "stress" in graph.labels,
                **scf_options(self.config.model.family, None),
            )
        float(output["energy"].sum())  # waits for the device
        sums, evaluation = self.progress.sums, time.perf_counter() - started
        self.optimizer.zero_grad(set_to_none=True)
        return Trial(len(batches), graph.n_systems, step, evaluation, terms, norm, sums)

    def _gradient(self, indices: Sequence[int], graph: Graph | None) -> tuple[dict[str, float], int]:
        """Weighted terms of the loss of a batch, none without a label, and the number of frames that count;
        the gradient of their sum is left in the parameters."""
        sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        row: list[Any] = [self._stop_signal, 0, 0, 0, 0, 0, 0]
        self.optimizer.zero_grad(set_to_none=True)
        if graph is not None:
            output = self._predict(indices, graph)
            sums = self.loss.sums(output, graph)
            row[1:] = convergence_row(output, graph.n_systems)
        names = list(self.stage.loss.weights)
        row += [value for name in names for value in sums.get(name, (0.0, 0.0))]
        rows = ranks.gathered(_floats(row))  # [n_ranks, 7 + 2 n_targets]
        self._stopping = int(rows[:, 0].max())
        n_counted = add_convergence(self.progress.sums, rows[:, 1:7])
        totals, counts = rows[:, 7:].sum(dim=0).reshape(-1, 2).T
        counted = zip(names, totals, counts.tolist(), strict=True)
        found = {name: (total, count) for name, total, count in counted if count}
        if not found:
            return {}, 0
        terms = {name: float(term) for name, term in self.loss.means(found).items()}
        if not math.isfinite(sum(terms.values())):
            raise self._non_finite(indices, f"the loss is {sum(terms.values())}")
        own = self.loss.means({name: (total, found[name][1]) for name, (total, _) in sums.items()})
        if graph is not None and (part := self.loss.total(own, graph)) is not None:
            part.backward()
        ranks.add_gradients(entry for group in self.optimizer.param_groups for entry in group["params"])
        return terms, n_counted

    def _predict(self, indices: Sequence[int], graph: Graph) -> dict[str, torch.Tensor]:
        """Output of the model for a training batch, to be differentiated."""
        weights = self.stage.loss.weights
        return compute(
            self.model,
            self.train_set,
            indices,
            graph,
            weights,
            forces="forces" in weights,
            stress="stress" in weights and "stress" in graph.labels,
            training=True,
            **self._scf,
        )

    def _count(self, terms: dict[str, float], n: int) -> None:
        sums = self.progress.sums
        sums["frames"] = sums.get("frames", 0.0) + n
        for name, value in {"loss": sum(terms.values()), **terms}.items():
            sums[name] = sums.get(name, 0.0) + value * n

    def _non_finite(self, indices: Sequence[int], what: str) -> NonFiniteError:
        """The error that names the frames whose own predictions are not finite, or else the whole batch."""
        places = []
        for index in indices:
            graph = self.train_set.batch([index]).to(device=self.device)
            output = self._predict([index], graph)  # without the model's own refusal of NaN
            bad = [
                name
                for name, value in output.items()
                if name not in NOT_FINITE and not bool(torch.isfinite(value).all())
            ]
            if bad:
                places.append(f"{self.train_set.frames[index].where} ({', '.join(bad)})")
        places = [place for found in ranks.everywhere(places) for place in found]
        blame = "not finite for"
        if not places:
            blame = "while every prediction is finite by itself, for the batch of"
            own = [self.train_set.frames[index].where for index in indices]
            places = [place for found in ranks.everywhere(own) for place in found]
        shown = "; ".join(places[:8]) + (f"; and {len(places) - 8} more" if len(places) > 8 else "")
        return NonFiniteError(
            f"stage '{self.stage.name}', epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}: "
            f"{what}, {blame} {shown}. Lower the learning rate or clip_grad, or check these frames; the last "
            f"checkpoint is {self.config.run_folder / LAST_CHECKPOINT}"
        )

    def _validate(self) -> Metrics:
        limits = self.config.data.valid_limits
        with averaged_weights(self.model, self.optimizer, self.average):
            return evaluate_dataset(self.model, self.valid_set, limits, self.stage.loss)

    def _row(self, metrics: Metrics, seconds: float) -> dict[str, Any]:
        sums = self.progress.sums
        frames = sums.get("frames", 0.0)
        row: dict[str, Any] = {"epoch": self.progress.epoch + 1, "stage": self.stage.name}
        for group in self.optimizer.param_groups:
            row[f"lr_{group['name']}"] = float(group["lr"])
        row["train_loss"] = sums["loss"] / frames if frames else math.nan
        row["valid_loss"] = metrics.loss
        for name in self.stage.loss.weights:
            if name in sums:
                row[f"train_{name}_loss"] = sums[name] / frames
        for name, errors in metrics.overall.items():
            row[f"valid_{name}_mae"] = errors.mae
            row[f"valid_{name}_rmse"] = errors.rmse
        row |= epoch_columns(sums, metrics.convergence)
        row["seconds"] = seconds
        return row

    def save(self) -> None:
        """Write the checkpoint that `restore` continues from, in the first rank."""
        if not ranks.is_first():
            return
        optimizer_tensors, optimizer_values = optimizer_state(self.optimizer)
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer_tensors.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.average.items()}
        tensors["rng/torch"] = torch.get_rng_state()
        state = {
            "config": self.config.model_dump(mode="json"),
            "data": self._data,
            "statistics": self.model.statistics.model_dump(mode="json"),
            "progress": self.progress.as_dict(),
            "optimizer": optimizer_values,
            "schedule": self.schedule.state(),
            "average_updates": 0 if self.average is None else self.average.updates,
        }
        write_checkpoint(self.config.run_folder / LAST_CHECKPOINT, Checkpoint(tensors, state))

    def _save_best(self) -> None:
        if not ranks.is_first():
            return
        with averaged_weights(self.model, self.optimizer, self.average):
            tensors = {f"model/{name}": value.clone() for name, value in self.model.state_dict().items()}
        state = {"epoch": self.progress.best_epoch, "valid_loss": self.progress.best_loss}
        write_checkpoint(self.config.run_folder / BEST_CHECKPOINT, Checkpoint(tensors, state))

    def restore(self) -> None:
        """Continue from the last checkpoint of the run.

        Raises `CheckpointError` if it is missing or corrupt, or belongs to other data or another config.
        """
        checkpoint = read_checkpoint(self.config.run_folder / LAST_CHECKPOINT)
        state = checkpoint.state
        check_options(state, self.config)
        check_data(state, self._data, self.config.run_folder)
        self.progress = Progress.from_dict(state["progress"])
        self._begin_stage()
        self.model.load_state_dict(checkpoint.group("model"))
        restore_optimizer(self.optimizer, checkpoint.group("optimizer"), state["optimizer"])
        self.schedule.restore(state["schedule"])
        if self.average is not None:
            self.average.updates = state["average_updates"]
            self.average.average = {
                name: value.to(self.device) for name, value in checkpoint.group("average").items()
            }
        torch.set_rng_state(checkpoint.tensors["rng/torch"])

    def _interrupt(self, number: int, reason: str = "") -> None:
        self.save()
        if not reason:  # which all ranks have: they wait, as torchrun ends all when one has ended
            ranks.everywhere(None)
        done = f"epoch {self.progress.epoch}"
        if self.progress.batch:
            done += f" and {self.progress.batch} batches"
        raise TrainingInterrupted(
            f"{reason}stopped after {done}; checkpoint written to "
            f"{self.config.run_folder / LAST_CHECKPOINT}; the same command with --resume goes on from there",
            number,
        )

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """The first Ctrl-C or termination signal ends the run after the current batch, a second one at
        once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        asked = -math.inf

        def request_stop(number: int, frame: object) -> None:
            nonlocal asked
            now = time.monotonic()
            if self._stop_signal:
                if ranks.connected() and now < asked + REPEATED:
                    return
                raise KeyboardInterrupt
            self._stop_signal, asked = number, now
            with suppress(OSError):  # after a hang-up there is no terminal to write to
                self.log.message("stopping after this batch; once more to stop at once")

        numbers = [signal.SIGINT, signal.SIGTERM]
        # Under nohup a hang-up is ignored, and stays so.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, request_stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _floats(values: Sequence[torch.Tensor | float]) -> list[float]:
    """Numbers of scalars, with one wait for the device."""
    scalars = [value.detach().double() for value in values if isinstance(value, torch.Tensor)]
    found = iter(torch.stack([value.to(scalars[0].device) for value in scalars]).tolist() if scalars else ())
    return [next(found) if isinstance(value, torch.Tensor) else float(value) for value in values]


def _finite_loss(metrics: Metrics) -> float:
    return math.inf if metrics.loss is None or not math.isfinite(metrics.loss) else metrics.loss

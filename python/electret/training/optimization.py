"""Optimisers over parameter groups, learning-rate schedules and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from electret.errors import InputError
from electret.training.config import LearningRates, OptimizerConfig, SchedulerConfig, StageConfig

__all__ = [
    "MovingAverage",
    "Schedule",
    "averaged_weights",
    "build_optimizer",
    "clip_gradient",
    "frozen_prefixes",
    "parameter_groups",
]


def parameter_groups(model: torch.nn.Module) -> dict[str, list[tuple[str, torch.nn.Parameter]]]:
    """Named parameters by group: `readouts` of the short-range energy, the rest of the `backbone`, and what
    makes the density, `electrostatics`.
    """
    groups: dict[str, list[tuple[str, torch.nn.Parameter]]] = {
        name: [] for name in LearningRates.model_fields
    }
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parts[0] != "backbone":
            group = "electrostatics"
        else:
            group = "readouts" if {"readouts", "embedding_readout"} & set(parts) else "backbone"
        groups[group].append((name, parameter))
    return groups


def frozen_prefixes(model: torch.nn.Module, parts: Sequence[str]) -> tuple[str, ...]:
    """Beginnings of the names of the parameters in parts of the backbone (`freeze` of a stage).

    Raises `InputError` for a part that the backbone does not have.
    """
    modules = {name for name, _ in model.named_modules()}
    joint = ["joint_embedding"] if "backbone.mace.joint_embedding" in modules else []
    found: list[str] = []
    for part in parts:
        kind, _, index = part.partition(" ")
        names = {
            "embedding": ("node_embedding", "radial_embedding", *joint),
            "layer": (f"interactions.{index}", f"products.{index}"),
            "readout": (f"readouts.{index}",),
        }.get(kind, ())
        own = [f"backbone.mace.{name}" for name in names]
        if not own or not modules.issuperset(own) or (kind == "embedding") == bool(index):
            layers = sum(name.count(".") == 3 and ".interactions." in name for name in modules)
            raise InputError(
                f"freeze: {part!r} is no part of the backbone; it has 'embedding', and 'layer N' and "
                f"'readout N' with N from 0 to {layers - 1}"
            )
        found += [f"{name}." for name in own]
    return tuple(found)


def build_optimizer(model: torch.nn.Module, stage: StageConfig) -> torch.optim.Optimizer:
    """Optimiser of a stage. Parameters of a group with learning rate 0, and frozen ones, are left out.

    Raises `InputError` if every group is frozen, or if `schedulefree` is chosen and not installed.
    """
    frozen = frozen_prefixes(model, stage.freeze)
    groups = [
        {"params": trained, "lr": rate, "name": name}
        for name, members in parameter_groups(model).items()
        if (rate := getattr(stage.lr, name)) > 0
        and (trained := [p for key, p in members if p.requires_grad and not key.startswith(frozen)])
    ]
    if not groups:
        raise InputError(
            f"stage '{stage.name}': every group is frozen or has learning rate 0; nothing would be trained"
        )
    config = stage.optimizer
    if config.name == "schedulefree":
        return _schedule_free(groups, config)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, betas=config.betas, weight_decay=config.weight_decay, amsgrad=config.amsgrad)


def clip_gradient(optimizer: torch.optim.Optimizer, limit: float | None) -> float:
    """Norm of the gradient of all parameters, which is scaled to `limit` if it is longer.

    Summed in float64: the square of a float32 overflows from 2e19 on.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    norm = math.hypot(*torch.stack(norms).tolist()) if norms else 0.0
    if limit is not None and limit < norm < math.inf:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def _schedule_free(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    try:
        import schedulefree
    except ImportError as error:
        raise InputError(
            "optimizer 'schedulefree' needs the package of that name: pip install schedulefree, or use adamw"
        ) from error
    optimizer = schedulefree.AdamWScheduleFree(
        groups,
        betas=config.betas,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps,
        foreach=False,
    )
    optimizer.train()
    return optimizer


class Schedule:
    """Learning rates of a stage, stepped once per epoch with the validation loss."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: SchedulerConfig, epochs: int) -> None:
        self._scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        schedulers = torch.optim.lr_scheduler
        if config.name == "plateau":
            self._plateau = schedulers.ReduceLROnPlateau(
                optimizer, factor=config.factor, patience=config.patience, min_lr=config.minimum
            )
        elif config.name == "cosine":
            self._scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=config.minimum)
        elif config.name == "exponential":
            self._scheduler = schedulers.ExponentialLR(optimizer, gamma=config.gamma)

    def step(self, valid_loss: float) -> None:
        """End of an epoch."""
        if self._plateau is not None:
            self._plateau.step(valid_loss)
        elif self._scheduler is not None:
            self._scheduler.step()

    def state(self) -> dict[str, Any]:
        """Plain numbers that `restore` takes back."""
        active = self._plateau or self._scheduler
        return {} if active is None else dict(active.state_dict())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        active = self._plateau or self._scheduler
        if active is not None:
            active.load_state_dict(dict(state))


class MovingAverage:
    """Exponential moving average of the parameters, with the decay min(decay, (1 + n) / (10 + n)) after n
    updates."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take in the parameters after an optimiser step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def applied(self, model: torch.nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the context."""
        own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        try:
            _copy_into(model, self.average)
            yield
        finally:
            _copy_into(model, own)


@torch.no_grad()
def _copy_into(model: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


@contextmanager
def averaged_weights(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> Iterator[None]:
    """The weights to validate and save: the moving average, or schedule-free's own average, or the plain
    ones."""
    if average is not None:
        with average.applied(model):
            yield
    elif hasattr(optimizer, "eval") and hasattr(optimizer, "train"):
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()
    else:
        yield

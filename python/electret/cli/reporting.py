"""Errors as one message and an exit code, tracebacks only on request."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import typer

from electret.errors import ElectretError

__all__ = ["INTERRUPTED", "reported", "show_tracebacks"]

INTERRUPTED = 130
BROKEN_PIPE = 141
"""Exit codes after Ctrl-C, and where the reader of standard output is gone, as shells have them."""

_EXTRA_PACKAGES = {
    "torch": "torch",
    "mace": "mace",
    "e3nn": "mace",
    "ase": "mace",
    "pydantic": "mace",
    "yaml": "mace",
    "safetensors": "mace",
    "matplotlib": "mace",
    "tensorboard": "mace",
}

_OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory")
"""In the messages of PyTorch, whose errors on the CPU have no type of their own."""

_tracebacks = False

P = ParamSpec("P")
R = TypeVar("R")


def show_tracebacks(wanted: bool) -> None:
    """True if errors of this process end with a traceback."""
    global _tracebacks
    _tracebacks = wanted


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors are shown as one message on standard error, with exit code 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _messages():
            return command(*args, **kwargs)

    return run


@contextmanager
def _messages() -> Iterator[None]:
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        _show("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _show("stopped: the reader of standard output is gone")
        _drop_output()
        raise typer.Exit(BROKEN_PIPE) from None
    except Exception as error:
        if _tracebacks:
            raise
        message, code = _message(error)
        _show(message)
        if code == BROKEN_PIPE:
            _drop_output()
        raise typer.Exit(code) from None


def _message(error: Exception) -> tuple[str, int]:
    if type(error).__name__ == "TrainingInterrupted":
        return str(error), 128 + getattr(error, "signal", INTERRUPTED - 128)
    if isinstance(error, ElectretError):
        return f"error: {error}", 1
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.split(".")[0]
        if package in _EXTRA_PACKAGES:
            extra = _EXTRA_PACKAGES[package]
            return (
                f"error: this command needs '{package}'; install it with: pip install 'electret[{extra}]'",
                1,
            )
    if isinstance(error, OSError):
        return f"error: {error}", 1
    if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
        return f"error: out of memory ({_first_line(error)}); use a smaller batch size or a smaller model", 1
    return (
        f"internal error: {type(error).__name__}: {error} (electret --debug shows where; please report it)",
        1,
    )


def _drop_output() -> None:
    """Prevent writes to the broken pipe when the interpreter flushes standard output at its end."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _show(message: str) -> None:
    from electret.support.console import say, standard_console

    say(standard_console(stderr=True), message)

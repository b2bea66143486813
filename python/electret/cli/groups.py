"""Command groups of the command line."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["RunByDefault"]


class RunByDefault(TyperGroup):
    """A group whose first word, where it is none of its commands, belongs to the command `run`.

    So `electret plot FOLDER` means `electret plot run FOLDER`.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See the class."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)

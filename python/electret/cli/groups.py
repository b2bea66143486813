"""Command groups of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperGroup

__all__ = ["RunByDefault"]


class RunByDefault(TyperGroup):
    """A group whose words belong to the command `run` if the first is none of its commands, or the only one
    and a folder.

    So `electret plot FOLDER` means `electret plot run FOLDER`, for a folder named `run` too.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See the class."""
        folder = len(args) == 1 and Path(args[0]).is_dir()
        if args and (folder or args[0] not in self.commands) and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)

"""Command line of electret: `electret train | eval | compare | info | plot | demo`."""

import sys

__all__ = ["app"]

_NEEDED = ("typer", "rich")


def app() -> None:
    """Entry point of the console script; says what to install where the extra for it is missing."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            # Letters that the encoding of the terminal lacks are written as escapes.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from electret.cli.main import application
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _NEEDED:
            raise
        sys.exit(
            f"error: electret's command line needs the package '{error.name}', which is not installed; "
            "install it with: pip install 'electret[mace]'"
        )
    application()

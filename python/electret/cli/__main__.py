"""`python -m electret.cli`, the same as the `electret` script."""

from electret.cli import app

app()

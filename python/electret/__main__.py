"""`python -m electret` and `torchrun -m electret`: the `electret` script."""

from electret.cli import app

app()

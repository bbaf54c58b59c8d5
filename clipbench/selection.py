"""`clipbench.selection.winners`, where results/README.md and notebooks look for it."""

from clipbench.analysis.choice import trials, winners

__all__ = ["trials", "winners"]

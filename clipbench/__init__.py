"""clipbench: should I clip, how, at what level, and does it matter?

    import clipbench
    runs = clipbench.sweep(["task=cola", "optim.clipping_type=none,norm", "seed=0,1"])

The command line is `clipbench`, or `python -m clipbench`; the clipped optimizers are `clipbench.optim`;
`clipbench.Recorder` takes down the rows of a training loop of your own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipbench.errors import UserError

if TYPE_CHECKING:
    from clipbench.api import Results as Results
    from clipbench.api import results, run, study, sweep
    from clipbench.record.recorder import Recorder

__version__ = "0.1.0"
__all__ = ["Recorder", "UserError", "__version__", "results", "run", "study", "sweep"]


def __getattr__(name: str) -> Any:
    """What stands in clipbench/api.py, `Recorder`, and `clipbench.selection`, when first used:
    `import clipbench` stays instant.
    """
    if name in ("Results", "results", "run", "study", "sweep"):
        from clipbench import api

        return getattr(api, name)
    if name == "Recorder":
        from clipbench.record.recorder import Recorder

        return Recorder
    if name == "selection":
        return import_module("clipbench.selection")
    raise AttributeError(f"module 'clipbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "Recorder", "results", "run", "study", "sweep"]

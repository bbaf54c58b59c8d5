"""What is known of a run while it is being made: the latest of its rows."""

from __future__ import annotations

import math

from clipbench.record.rows import EvalRow, StepRow
from clipbench.runs.events import Rows


class Latest:
    """The latest values of a run, and the share of its steps clipped so far, those skipped left out."""

    def __init__(self) -> None:
        self.step, self.loss, self.norm, self.clipped = 0, math.nan, math.nan, 0.0
        self.validation = ""  # "mcc 0.412 accuracy 0.733"

    def take(self, event: Rows) -> None:
        self.clipped = event.clipped
        values = []
        for row in event.rows:
            if isinstance(row, StepRow):
                self.step, self.loss, self.norm = row.step, row.loss, row.grad_norm
            elif isinstance(row, EvalRow) and row.split == "val" and row.metric != "loss":
                values.append((row.step, f"{row.metric} {row.value:.3f}"))
        if values:
            last = values[-1][0]
            self.validation = " ".join(text for step, text in values if step == last)

    @property
    def words(self) -> list[str]:
        """ "loss 0.61", "norm 1.2", "clipped 37%" of its steps, if it has any, and "val mcc 0.412"."""
        found = []
        if self.step:
            found += [f"loss {self.loss:.4g}", f"norm {self.norm:.3g}", f"clipped {self.clipped:.0%}"]
        if self.validation:
            found.append(f"val {self.validation}")
        return found

"""What became of a run, by its evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from clipbench.record.rows import EvalRow, RunEnd


def outcome(end: RunEnd, evals: Iterable[EvalRow], facts: Mapping[str, Any]) -> dict[str, Any]:
    """How it ended; final and best validation value and the final test value of the headline metric, where
    the run came so far. `facts`: its columns `headline` and `higher_is_better`.
    """
    headline = [row for row in evals if row.metric == facts["headline"]]
    val = [row for row in headline if row.split == "val"]
    test = [row for row in headline if row.split == "test"]
    best = max if facts["higher_is_better"] else min
    judged = (val + test)[-1:]
    return {
        **asdict(end),
        "final": val[-1].value if val else None,
        "best": best(row.value for row in val) if val else None,
        "final_test": test[-1].value if test else None,
        "resolution": judged[0].resolution if judged else None,
        "worth": judged[0].worth if judged else None,
    }

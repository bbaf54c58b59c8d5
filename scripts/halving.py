"""Whether stopping poor trials early changes who wins, and the steps that it saves.

python scripts/halving.py FULL HALVED

FULL and HALVED: results folders of one study, the first made with study.halving=1, the second with
study.halving=3. Who wins in a repetition is the method with the best final run. Tuning noise alone changes it
too: beside the agreement of the two folders stands that of two repetitions of FULL.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import pandas as pd

from clipbench.analysis.choice import CONTEST, winners
from clipbench.record import tables

Winners = dict[int, str]
"""By repetition, the method that won."""


def who_wins(runs: pd.DataFrame) -> Winners:
    """By the headline on test, of the final runs that came to their end. Of equal ones the first by name."""
    finals = runs[(runs["role"] == "final") & (runs["status"] == "done") & runs["final_test"].notna()]
    found = {}
    for repetition, part in finals.groupby("repetition"):
        by_name = part.sort_values("method").set_index("method")["final_test"]
        best = by_name.idxmax() if part["higher_is_better"].iloc[0] else by_name.idxmin()
        found[int(repetition)] = str(best)
    return found


def agreement(full: Winners, halved: Winners) -> tuple[int, int]:
    """In how many of how many repetitions that both have the same method won."""
    shared = full.keys() & halved.keys()
    return sum(full[each] == halved[each] for each in shared), len(shared)


def noise(full: Winners) -> tuple[int, int]:
    """In how many of how many pairs of repetitions the same method won."""
    pairs = list(combinations(full.values(), 2))
    return sum(one == other for one, other in pairs), len(pairs)


def same_choices(full: pd.DataFrame, halved: pd.DataFrame) -> tuple[int, int]:
    """In how many of how many choices, a method's in a repetition, it is the same trial."""
    keys = ["method", "repetition"]
    both = winners(full)[[*keys, "trial"]].merge(winners(halved)[[*keys, "trial"]], on=keys)
    return int((both["trial_x"] == both["trial_y"]).sum()), len(both)


def tuning_steps(runs: pd.DataFrame) -> int:
    return int(runs["steps"][runs["role"] == "tune"].sum())


def compared(full: pd.DataFrame, halved: pd.DataFrame) -> list[str]:
    """What one contest shows, a line each."""
    ours, theirs = who_wins(full), who_wins(halved)
    before, after = tuning_steps(full), tuning_steps(halved)
    every = int(full["steps"].sum())
    saved = before - after
    shares = f"{saved / before:.0%} saved, {saved / every:.0%} of all steps"
    return [
        f"  the same method wins     {_share(*agreement(ours, theirs))} repetitions",
        f"  by tuning noise alone    {_share(*noise(ours))} pairs of repetitions of the full study",
        f"  the same trial is chosen {_share(*same_choices(full, halved))} choices",
        f"  tuning steps             {after} of {before}: {shares}",
    ]


def _share(count: int, of: int) -> str:
    return f"{count} of {of}" + (f" ({count / of:.0%})" if of else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("full", type=Path)
    parser.add_argument("halved", type=Path)
    options = parser.parse_args()
    full = tables.read(options.full, "runs").dropna(subset=["study", "repetition"])
    halved = tables.read(options.halved, "runs").dropna(subset=["study", "repetition"])
    others = dict(list(halved.groupby(CONTEST)))
    for key, part in full.groupby(CONTEST):
        if key in others:
            print(" · ".join(map(str, key)))
            print("\n".join(compared(part, others[key])))


if __name__ == "__main__":
    main()

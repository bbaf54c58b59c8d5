"""Controls: whether the bench finds what is known of clipping, and finds nothing where nothing is.

python scripts/controls.py --results DIR

Positive: a recurrent net under plain SGD, at the best rate of each, is better with clipping by norm: an LSTM
(1905.11881) and a tanh RNN (1211.5063). Negative: the LSTM under AdamW, and the RNN with a momentum of .9:
the interval excludes a gain of half the positive control's. Each is a study of its own on the generated
language of `task=lm`, all by `study=controls`, which was fixed before the first run.

*came out*: a positive control whose verdict is that clipping helps; a negative one whose interval ends below
half the positive one's gain. *failed*: the opposite is shown. *not decided*: neither is, which is no pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipbench.analysis.comparison import Ranking, rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.cli.main import main as clipbench
from clipbench.stats import Interval

SHARED = (
    "study=controls task=lm task.layers=1 task.width=64 task.context=40 task.recurrent_init=normal "
    "task.forget_bias=1 batch_size=16 steps=300 eval_every=100 schedule=constant warmup=0"
)
CONTROLS = {
    "lstm_sgd": "task.model=lstm optim=sgd optim.momentum=0 optim.lr=4",
    "lstm_adamw": "task.model=lstm optim=adamw optim.lr=1e-2",
    "rnn_sgd": "task.model=rnn_tanh optim=sgd optim.momentum=0 optim.lr=1",
    "rnn_momentum": "task.model=rnn_tanh optim=sgd optim.momentum=0.9 optim.lr=0.1",
}
POSITIVE = {"lstm_adamw": "lstm_sgd", "rnn_momentum": "rnn_sgd"}
"""By each negative control the positive one whose gain it is measured by."""


def run(folder: Path, name: str) -> None:
    """Make a control's study. SystemExit where it does not end well."""
    code = clipbench(["study", *SHARED.split(), *CONTROLS[name].split(), f"results={folder / name}"])
    if code:
        raise SystemExit(code)


def ranking_of(folder: Path) -> Ranking:
    """The final runs of the one study in it."""
    [group] = read_groups(folder)
    [ranking] = rankings(group)
    return ranking


def gain(ranking: Ranking) -> Interval:
    """What clipping by norm gains over none: positive is better, with its simultaneous interval."""
    return ranking.comparisons["norm"].difference


def positive(ranking: Ranking) -> str:
    """Of a control in which clipping helps."""
    outcomes = {"helps": "came out", "hurts": "failed", "equivalent": "failed"}
    return outcomes.get(judge(ranking).kind, "not decided")


def negative(found: Interval, reference: Interval) -> str:
    """Of a control in which clipping gains less than half of what it gains in the positive one."""
    half = reference.estimate / 2
    if half <= 0:
        return "not decided"
    if found.high < half:
        return "came out"
    return "failed" if found.low > half else "not decided"


def outcomes(folder: Path) -> dict[str, str]:
    """Of each control whether it came out."""
    known = {name: ranking_of(folder / name) for name in CONTROLS}
    found = {name: positive(ranking) for name, ranking in known.items() if name not in POSITIVE}
    for name, reference in POSITIVE.items():
        is_known = found[reference] == "came out"  # else there is no gain to measure by
        found[name] = negative(gain(known[name]), gain(known[reference])) if is_known else "not decided"
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Make what is missing, and say what came out."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--results", type=Path, default=Path("results/controls"), metavar="DIR")
    folder = parser.parse_args(words).results
    for name in CONTROLS:
        run(folder, name)
    for name, outcome in outcomes(folder).items():
        ranking = ranking_of(folder / name)
        print(f"{name}: {outcome}. {judge(ranking).sentence}")


if __name__ == "__main__":
    main()

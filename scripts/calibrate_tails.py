"""How often is the rule of `clipbench tails` wrong? Its outcomes on samples whose tail is known.

python scripts/calibrate_tails.py [SAMPLES]      a table, and results/reference/tails_calibration.parquet

SAMPLES (200) of each distribution, clean, with one outlier and with 1 % of them, at each n: ten minutes of
two cores. What is called is the function that the command calls. `clipbench/stats/heaviness.py` states the
rates that this prints last.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipbench.stats.heaviness import Errors, heaviness

TABLE = Path(__file__).parents[1] / "results" / "reference" / "tails_calibration.parquet"
SIZES = (100, 240, 1000, 5000)
OUTLIERS = ("none", "one", "1 %")
OUTLYING = (5, 20)  # interquartile ranges above the median
Rng = np.random.Generator


@dataclass(frozen=True)
class Noise:
    """A distribution of norms, and whether its tail falls off more slowly than an exponential one."""

    name: str
    heavy: bool
    draw: Callable[[Rng, int], np.ndarray]


def gaussian(rng: Rng, n: int) -> np.ndarray:
    return rng.normal(10, 1, n)


def chi(rng: Rng, n: int) -> np.ndarray:
    return np.sqrt(rng.chisquare(3, n))


def exponential(rng: Rng, n: int) -> np.ndarray:
    return rng.exponential(size=n)


def lognormal(rng: Rng, n: int) -> np.ndarray:
    return rng.lognormal(size=n)


def t5(rng: Rng, n: int) -> np.ndarray:
    return np.abs(rng.standard_t(5, n))


def t3(rng: Rng, n: int) -> np.ndarray:
    return np.abs(rng.standard_t(3, n))


def pareto3(rng: Rng, n: int) -> np.ndarray:
    return rng.pareto(3, n) + 1


def pareto15(rng: Rng, n: int) -> np.ndarray:
    return rng.pareto(1.5, n) + 1


NOISES = (
    Noise("Gaussian", False, gaussian),
    Noise("χ, 3 degrees", False, chi),
    Noise("exponential", False, exponential),
    Noise("lognormal, σ = 1", True, lognormal),
    Noise("t with 5", True, t5),
    Noise("t with 3", True, t3),
    Noise("Pareto, α = 3", True, pareto3),
    Noise("Pareto, α = 1.5", True, pareto15),
)


def with_outliers(rng: Rng, x: np.ndarray, outliers: str) -> np.ndarray:
    """Some values replaced by others that lie far out."""
    if outliers == "none":
        return x
    count = 1 if outliers == "one" else round(len(x) / 100)
    first, median, third = np.quantile(x, [0.25, 0.5, 0.75])
    x[:count] = median + (third - first) * rng.uniform(*OUTLYING, count)
    return x


def measure(place: int, n: int, outliers: str, samples: int) -> dict[str, object]:
    """One row of the table: how often each outcome came out."""
    noise = NOISES[place]
    rng = np.random.default_rng([place, n, OUTLIERS.index(outliers)])
    found: Counter[str] = Counter()
    for _ in range(samples):
        x = with_outliers(rng, noise.draw(rng, n), outliers)
        result = heaviness(x)
        found[result.outcome] += 1
        found["all values"] += result.slow
    return {
        "distribution": noise.name,
        "is_heavy": noise.heavy,
        "outliers": outliers,
        "n": n,
        "samples": samples,
        "heavy": found["heavy"],
        "not_heavy": found["not heavy"],
        "cannot_tell": found["cannot tell"],
        "heavy_by_all_values": found["all values"],
    }


def summary(table: pd.DataFrame) -> tuple[Errors, ...]:
    """What heaviness.py states."""
    rates = table.assign(rate=100 * table["heavy"] / table["samples"])
    found = []
    for n in SIZES:
        rows = rates[rates["n"] == n]
        clean = rows["outliers"] == "none"
        wrong = rows["rate"][clean & ~rows["is_heavy"]].max()
        wrong_outliers = rows["rate"][~clean & ~rows["is_heavy"]].max()
        heavy = rows[clean & rows["is_heavy"]]
        missed = {}
        for name, rate in zip(heavy["distribution"], heavy["rate"], strict=True):
            missed[name] = round(100 - rate, 1)
        found.append(Errors(n, round(float(wrong), 1), round(float(wrong_outliers), 1), missed))
    return tuple(found)


def main(samples: int) -> None:
    cells = []
    for n in reversed(SIZES):  # the slow ones first
        for place in range(len(NOISES)):
            cells += [(place, n, outliers, samples) for outliers in OUTLIERS]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(measure, *zip(*cells, strict=True)))
    table = pd.DataFrame(rows).sort_values("n", kind="stable", ignore_index=True)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(TABLE, index=False)
    print(table.to_string())
    for each in summary(table):
        print(f"{each},")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

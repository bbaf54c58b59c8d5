"""Loss, training metric and validation metric against step: one line per configuration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.analysis.group import Configuration
from clipbench.analysis.ranking import Ranking
from clipbench.plot import style, titles
from clipbench.plot.looks import Look, named, shown
from clipbench.stats import mean_and_half

POINTS = 500  # of a line: a panel is 600 pixels wide
THIN = 7  # runs: up to so many are thin lines, an interval of more is a band
CROWDED = 6  # configurations: of more, means alone


def comparison(found: Sequence[Ranking], width: float = style.WIDTH) -> Figure:
    """Means over runs, those of up to seven as thin lines; of more the 95 % t-interval of the mean as a band.
    A run that diverged is a thin line that ends in ✕, and no part of the mean.

    The loss is smoothed for the eye, each run before the mean: an exponential moving average over 2 % of the
    steps. `found`: the rankings of one group.
    """
    group, lines = found[0].group, shown(found)
    configurations = [configuration for configuration, _ in lines]
    counts = {len(configuration.done) for configuration in configurations}
    crowded = len(lines) > CROWDED
    values = [_judged(found[0], each) for each in configurations]
    digits = style.decimals(values)
    entries = []
    for configuration, value in zip(configurations, values, strict=True):
        number = style.number(value, digits)
        entries.append(_entry(configuration, number, len(counts) > 1, width - 0.5))
    handles = [Line2D([], [], **look.line) for _, look in lines]
    heading = _explanation(found, configurations, counts, crowded, digits)
    legend = style.Legend(handles, entries, width, heading)
    name = titles.headline(group, "")
    panels = {"training loss, smoothed": thinned(smooth(group.curve("loss")))}
    for what, split in (("training", "train"), ("validation", "val")):
        table = group.metric(split)
        if len(table):  # a loop of one's own may not evaluate there
            panels[what + name] = table
    wide = width >= style.WIDE
    columns = len(panels) if wide else 1
    height = 1.6 if wide else len(panels) * 1.25 + (len(panels) - 1) * 0.42
    foot = 0.38 + legend.height
    fig = style.titled(
        titles.title(group), titles.notes(found, len(lines)), height, (0.42, 0.08, foot, 0.2), width
    )
    spacing = {"wspace": 0.24} if wide else {"hspace": 0.34}
    axes = style.grid(fig, len(panels), columns, **spacing)
    for i, (ax, (what, table)) in enumerate(zip(axes, panels.items(), strict=True)):
        style.letter(ax, i, what)
        ax.locator_params(axis="x", nbins=5)
        _limit(ax, table, configurations, crowded)
        for configuration, look in lines:
            _draw(ax, table, configuration, look, crowded)
    style.also(axes[-1], *baseline(found), 1.5)
    for ax in axes if wide else axes[-1:]:
        ax.set_xlabel("step")
    legend.draw(fig)
    return fig


def baseline(found: Sequence[Ranking]) -> tuple[float, str]:
    """What anyone gets without learning, and its name; NaN where the runs name none. Its value is one on
    test.
    """
    name = found[0].baseline_name
    values = found[0].group.runs.get("baseline_test", pd.Series(dtype=float)).dropna().astype(float)
    if not name or values.empty:
        return float("nan"), ""
    return float(values.median()), f"{name} (test)"


def smooth(loss: pd.DataFrame) -> pd.DataFrame:
    """Each column's exponential moving average over 2 % of the steps; gaps where the loss is not finite."""
    finite = loss.where(np.isfinite(loss))
    span = max(1, len(loss) // 50)
    averages = finite.ewm(span=span).mean()
    return averages.where(finite.notna())


def thinned(table: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    """At most `points` rows at even distance, the first and the last among them."""
    if len(table) <= points:
        return table
    last = len(table) - 1
    rows = np.linspace(0, last, points).round()
    return table.iloc[rows.astype(int)]


def there(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Those of `runs` that have a column."""
    return table[[run for run in runs if run in table]]


def spread(ax: Axes, table: pd.DataFrame, look: Look, mean: np.ndarray, half: np.ndarray) -> None:
    """The runs behind a mean: up to seven as thin lines, of more the interval of their mean as a band."""
    runs = table.shape[1]
    if 1 < runs <= THIN:
        ax.plot(table.index, table, color=look.colour, linewidth=0.35, alpha=0.45, zorder=1.8)
    elif runs > THIN:
        low, high = mean - half, mean + half
        ax.fill_between(table.index, low, high, color=look.colour, alpha=0.15, linewidth=0)


def _limit(ax: Axes, table: pd.DataFrame, configurations: Sequence[Configuration], crowded: bool) -> None:
    """The axis fits the runs that came to an end, or where it is crowded their means: one that explodes
    leaves the panel.
    """
    parts = []
    for configuration in configurations:
        done = there(table, configuration.done).to_numpy(float)
        if done.size:
            parts.append(mean_and_half(done)[0] if crowded else done.ravel())
    values = np.concatenate(parts) if parts else table.to_numpy(float)
    style.log_if_wide(ax, "y", values)
    style.fit(ax, values)
    if ax.get_yscale() == "log":
        style.few_ticks(ax.yaxis, 1.4)


def _draw(ax: Axes, table: pd.DataFrame, configuration: Configuration, look: Look, crowded: bool) -> None:
    done = there(table, configuration.done)
    if not done.empty:
        mean, half = mean_and_half(done.to_numpy(float))
        ax.plot(done.index, mean, label=configuration.label, **look.line)
        if not crowded:
            spread(ax, done, look, mean, half)
    for run in there(table, configuration.diverged):
        values = table[run].dropna()
        if len(values):
            ax.plot(values.index, values, linewidth=0.5, **look.line)
            style.cross(ax, values.index[-1], values.iloc[-1], look.colour)


def _judged(ranking: Ranking, configuration: Configuration) -> float:
    """The mean over its runs, after the last step, of what methods are ordered by; NaN where none ended."""
    column = "final_test" if ranking.split == "test" else "final"
    runs = ranking.group.runs.loc[list(configuration.done)]
    return float(runs[column].astype(float).mean())


def _entry(configuration: Configuration, number: str, n: bool, room: float) -> str:
    """ "norm 0.5   0.713   n=5   1✕"; `n`: whether to say how many runs ended. A long name is cut."""
    parts = [number]
    if n:
        parts.append(f"n={len(configuration.done)}")
    if configuration.diverged:
        parts.append(f"{len(configuration.diverged)}✕")
    rest = "   ".join(["", *parts])
    return style.shortened(named(configuration), room - style.inches(rest, 6.5), 6.5) + rest


def _explanation(
    found: Sequence[Ranking],
    configurations: Sequence[Configuration],
    counts: set[int],
    crowded: bool,
    digits: int,
) -> str:
    """What the lines and numbers are."""
    judged = titles.headline(found[0].group, found[0].judged_on)
    parts = [f"Lines are means; numbers are final {judged}"]
    unit = found[0].unit
    if counts == {1}:
        parts[0] = parts[0].replace("Lines are means", f"One {unit} each")
    elif crowded:
        parts.append(f"single {unit}s of more than {CROWDED} methods are not drawn")
    else:
        if any(1 < count <= THIN for count in counts):
            parts.append(f"thin: single {unit}s")
        if max(counts, default=0) > THIN:
            parts.append("bands: 95 % t-interval of the mean")
    if any(configuration.diverged for configuration in configurations):
        parts.append("✕ diverged, not in the mean")
    value, name = baseline(found)
    if np.isfinite(value):
        parts.append(f"{name} {style.number(value, digits)}")
    return f"{'; '.join(parts)}. {titles.order(found)}."

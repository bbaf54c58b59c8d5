"""What runs that are evaluated under several conditions come to under each."""

from __future__ import annotations

from clipbench.analysis.ranking import Ranking, mean_over_runs
from clipbench.stats import Interval


def by_condition(ranking: Ranking) -> dict[str, dict[str, Interval]]:
    """{method: {condition: the mean of the judged split's headline over the runs that came to an end}}, the
    conditions in the order of evaluation; of the methods whose runs name one.
    """
    group = ranking.group
    if group.conditions.empty:
        return {}
    rows = group.conditions
    rows = rows[(rows["metric"] == group.headline) & (rows["split"] == ranking.split)].dropna(subset="value")
    found = {}
    for method in ranking.judged:
        own = rows[rows["run"].isin(method.configuration.done)]
        if len(own):
            values = own.groupby("condition", sort=False)["value"]
            found[method.name] = {str(name): mean_over_runs(part) for name, part in values}
    return found

"""What runs that are evaluated under several conditions come to under each."""

from __future__ import annotations

from clipbench.analysis.ranking import Ranking, mean_over_runs
from clipbench.stats import Interval


def by_condition(ranking: Ranking) -> dict[str, dict[str, Interval]]:
    """{condition: {method: the mean of the judged split's headline over the runs that came to an end}}, in
    the order in which they were evaluated; empty where no run names a condition.
    """
    group = ranking.group
    rows = group.conditions
    if rows.empty:
        return {}
    rows = rows[(rows["metric"] == group.headline) & (rows["split"] == ranking.split)]
    found: dict[str, dict[str, Interval]] = {}
    for condition, part in rows.groupby("condition", sort=False):
        values = part.set_index("run")["value"]
        for method in ranking.judged:
            own = values[values.index.isin(method.configuration.done)].dropna()
            if len(own):
                found.setdefault(str(condition), {})[method.name] = mean_over_runs(own)
    return found

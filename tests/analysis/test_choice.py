"""What tuning chose, on tables made by hand: the rule, its ties, and what lies at the edge of a space."""

import json
import math

import pandas as pd
import pytest

from clipbench.analysis.choice import Candidate, best_first, edge, is_without_clipping, trials, winners

INF = math.inf


def table(*rows, higher=True):
    """A row of `runs` for each (method, trial, seed, final, status, numbers)."""
    return pd.DataFrame(
        [
            {
                "run": f"r{i}",
                "study": "quick",
                "task": "cola",
                "scale": "mini",
                "optimizer": "adamw",
                "role": "tune",
                "method": method,
                "trial": trial,
                "repetition": None,
                "seed": seed,
                "final": final,
                "status": status,
                "higher_is_better": higher,
                "started": "2026-01-01",
                "config": json.dumps({"optim": {"clip": numbers.get("clip", {})}}),
                "clipping_type": method,
                "lr": numbers.get("lr", math.nan),
                "clipping_level": numbers.get("clipping_level", math.nan),
                "p_autoclip": numbers.get("p_autoclip", math.nan),
                "beta": numbers.get("beta", math.nan),
            }
            for i, (method, trial, seed, final, status, numbers) in enumerate(rows)
        ]
    )


def ended(trial, *finals, method="norm", status="done", **numbers):
    return [(method, trial, seed, final, status, numbers) for seed, final in enumerate(finals)]


def winner(runs):
    [(_, row)] = winners(runs).iterrows()
    return row


def test_the_best_mean_over_the_tuning_seeds_wins():
    row = winner(table(*ended(0, 0.9, 0.1), *ended(1, 0.6, 0.5), *ended(2, 0.5, 0.5)))
    assert (row["trial"], row["value"], row["seeds"], row["trials"]) == (1, pytest.approx(0.55), 2, 3)


def test_the_lowest_wins_where_lower_is_better():
    assert winner(table(*ended(0, 3.0), *ended(1, 1.0), *ended(2, 2.0), higher=False))["trial"] == 1


@pytest.mark.parametrize("higher", [True, False])
def test_any_divergence_is_worse_than_any_value(higher):
    runs = table(
        *ended(0, 99.0, 99.0),
        ("norm", 1, 0, 100.0, "done", {}),
        ("norm", 1, 1, 100.0, "diverged", {}),
        higher=higher,
    )
    runs = pd.concat(
        [
            runs,
            table(
                ("norm", 2, 0, -100.0, "done", {}), ("norm", 2, 1, math.nan, "diverged", {}), higher=higher
            ),
        ]
    )
    assert winner(runs)["trial"] == 0
    assert winner(runs)["diverged"] == 0


def test_a_validation_value_that_is_no_number_counts_as_diverged():
    assert winner(table(*ended(0, math.nan), *ended(1, 0.1)))["trial"] == 1


def test_where_all_diverge_there_is_a_winner_and_it_says_so():
    row = winner(table(*ended(0, math.nan, status="diverged"), *ended(1, math.nan, status="diverged")))
    assert (row["trial"], row["diverged"]) == (0, 1)


def test_of_equals_the_smaller_number_wins_whatever_the_order_of_the_rows():
    runs = table(*ended(5, 0.5), *ended(2, 0.5), *ended(7, 0.5))
    assert winner(runs)["trial"] == winner(runs[::-1])["trial"] == 2


def test_a_trial_that_lacks_a_run_is_not_chosen():
    runs = table(*ended(0, 0.5, 0.5), ("norm", 1, 0, 0.9, "done", {}), ("norm", 1, 1, 0.9, "failed", {}))
    assert winner(runs)["trial"] == 0


def test_final_runs_and_runs_of_no_study_have_no_say():
    runs = table(*ended(0, 0.5), *ended(1, 0.9), *ended(2, 0.9))
    runs.loc[1, "role"], runs.loc[2, "role"] = "final", None
    assert winner(runs)["trial"] == 0


def test_methods_tasks_and_studies_are_chosen_for_apart():
    runs = table(*ended(0, 0.1), *ended(1, 0.2), *ended(0, 0.9, method="auto"), *ended(1, 0.8, method="auto"))
    other = runs.assign(task="voc", final=1 - runs["final"])
    chosen = winners(pd.concat([runs, other])).set_index(["task", "method"])["trial"].to_dict()
    assert chosen == {("cola", "norm"): 1, ("cola", "auto"): 0, ("voc", "norm"): 0, ("voc", "auto"): 1}


def test_the_trials_are_in_order():
    every = trials(table(*ended(0, 0.1), *ended(1, 0.3), *ended(2, 0.2)))
    assert every[["trial", "place"]].to_numpy().tolist() == [[1, 1], [2, 2], [0, 3]]


EDGES = {
    "lr=0.1": ("lr=0.2 lr=0.3", "lr lowest"),
    "lr=0.3": ("lr=0.2 lr=0.1", "lr highest"),
    "lr=0.2": ("lr=0.3 lr=0.1", ""),
    "beta=0.5": ("beta=0.5 beta=0.5", ""),  # not drawn
    "clipping_level=inf": ("clipping_level=1 clipping_level=2", ""),
    "clipping_level=5": ("clipping_level=1 clipping_level=inf", ""),
    "clipping_level=4": ("clipping_level=1 clipping_level=2", "clipping_level highest"),
    "clipping_level=0.5": ("clipping_level=2 clipping_level=inf", "clipping_level lowest"),
    "p_autoclip=1": ("p_autoclip=0.5 p_autoclip=0.1", ""),
    "p_autoclip=0.1": ("p_autoclip=0.5 p_autoclip=1", "p_autoclip lowest"),
    "k=9": ("k=1 k=2", "k highest"),  # of a user's own rule
}


def numbers(words):
    for word in words.split():
        name, value = word.split("=")
        yield {"clip": {name: float(value)}} if name == "k" else {name: float(value)}


@pytest.mark.parametrize(("best", "others", "edge"), [(best, *rest) for best, rest in EDGES.items()])
def test_a_winner_beyond_which_nothing_was_tried_is_at_the_edge(best, others, edge):
    tried = [next(numbers(best)), *numbers(others)]
    rows = [row for i, each in enumerate(tried) for row in ended(i, 0.9 - i / 10, **each)]
    assert winner(table(*rows))["edge"] == (dict([edge.split()]) if edge else {})


def test_without_tuning_runs_there_is_nothing():
    runs = table(*ended(0, 0.5)).assign(role=None)
    assert winners(runs).empty
    assert trials(runs).empty


def candidate(what, seeds=3, diverged=0, value=0.5):
    return Candidate(what, seeds, diverged, value)


def test_the_rule_of_choice():
    """Complete ones only; fewest diverged; then the value; one without a value last among equals; then the
    order given.
    """
    given = [
        candidate("lacks a seed", seeds=2, value=0.99),
        candidate("diverged", diverged=1, value=0.9),
        candidate("no number", value=math.nan),
        candidate("second of equals", value=0.5),
        candidate("third of equals", value=0.5),
        candidate("best", value=0.6),
    ]
    expected = ["best", "second of equals", "third of equals", "no number", "diverged"]
    assert [each.what for each in best_first(given, higher_is_better=True)] == expected
    expected = ["second of equals", "third of equals", "best", "no number", "diverged"]
    assert [each.what for each in best_first(given, higher_is_better=False)] == expected
    assert best_first([], higher_is_better=True) == []


@pytest.mark.parametrize(
    ("name", "value", "tried", "expected"),
    [
        ("lr", 0.1, [0.1, 0.2, 0.3], "lowest"),
        ("lr", 0.3, [0.1, 0.2, 0.3], "highest"),
        ("lr", 0.2, [0.1, 0.2, 0.3], ""),
        ("lr", 0.1, [0.1, 0.1], ""),
        ("lr", 0.1, [], ""),
        ("lr", None, [0.1, 0.2], ""),
        ("lr", 0.2, [0.1, None, 0.2], "highest"),
        ("clipping_level", INF, [1.0, INF], ""),
        ("clipping_level", 1.0, [1.0, INF], "lowest"),
        ("p_autoclip", 1.0, [0.1, 1.0], ""),
        ("p_autoclip", 0.1, [0.1, 1.0], "lowest"),
        ("k", 2, [1, 2, "inf"], ""),  # of a user's own rule: in the tables ∞ is text
        ("k", "inf", [1, 2, "inf"], "highest"),
        ("k", "cosine", ["cosine", "linear"], ""),
        ("k", True, [True, False], ""),
    ],
)
def test_the_edge_of_what_was_tried(name, value, tried, expected):
    assert edge(name, value, tried) == expected


def test_no_clipping_is_a_level_of_infinity_or_p_of_one():
    assert is_without_clipping({"clipping_level": INF, "p_autoclip": None})
    assert is_without_clipping({"p_autoclip": 1.0})
    assert not is_without_clipping({"clipping_level": 1.0, "p_autoclip": 0.5})
    assert not is_without_clipping({})


def test_notebooks_find_it_where_the_page_on_results_says():
    from clipbench import selection

    runs = table(*ended(0, 0.1), *ended(1, 0.3))
    assert selection.winners(runs)["trial"].tolist() == [1]
    assert selection.trials(runs)["trial"].tolist() == [1, 0]


def test_a_setting_of_an_own_rule_that_is_no_number_is_no_hyperparameter():
    runs = table(*ended(0, 0.5, lr=0.1, clipping_level=2.0, clip={"gain": "inf", "mode": "fast", "on": True}))
    found = trials(runs)["hyperparameters"].iloc[0]
    assert found == {"lr": 0.1, "clipping_level": 2.0, "gain": INF}
    assert next(iter(found)) == "lr"

"""The report says in words what the numbers allow, and nothing more."""

from itertools import combinations

import numpy as np
import pytest
from madeup import BETTER, NONE, interval, ranking_of, study, told, write, write_methods
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.report import panels
from clipbench.report.draw import draw
from clipbench.report.provenance import facts


def test_a_difference_is_told_with_its_interval_and_n(tmp_path):
    kind, sentence, _ = told(tmp_path, {"none": NONE, "auto": BETTER}, role="final")
    low, high = interval(BETTER)
    gain = 100 * np.mean(np.subtract(BETTER, NONE))
    assert kind == "helps"
    difference = f"auto +{gain:.1f} points of accuracy over none"
    ends = f"{100 * low:.1f} to {100 * high:.1f}"
    assert sentence == f"Clipping helps: {difference}, 95 % interval {ends}, n=5."


def test_a_loss_and_a_mixture_are_told(tmp_path):
    worse = [value - 0.1 for value in BETTER]
    assert told(tmp_path / "a", {"none": NONE, "norm": worse}, role="final")[:2][0] == "hurts"
    kind, sentence, _ = told(tmp_path / "b", {"none": NONE, "norm": worse, "auto": BETTER}, role="final")
    assert kind == "mixed"
    assert sentence.startswith("It depends on how one clips: auto +3.1 points")
    assert "norm −6.9 points" in sentence


def test_less_is_better_turns_the_words(tmp_path):
    kind, sentence, _ = told(tmp_path, {"none": BETTER, "auto": NONE}, role="final", higher=False)
    assert kind == "helps"
    assert "accuracy better than none" in sentence
    assert "points" not in sentence


def test_no_difference_is_called_where_the_seeds_cannot_show_it(tmp_path):
    noise = [0.01, -0.02, 0.015, -0.005, 0.01]
    kind, sentence, _ = told(tmp_path, {"none": NONE, "auto": list(np.add(NONE, noise))}, role="final")
    assert kind == "same"
    assert sentence.startswith("No difference that 5 seeds could show. The largest is auto +0.2 points")


def test_holm_takes_a_difference_back(tmp_path):
    """Each of five methods would be called different alone; together none may be."""
    gains = [0.020, 0.002, 0.018, 0.022, 0.012]
    p = stats.ttest_rel(np.add(NONE, gains), NONE).pvalue
    assert p < 0.05 < 5 * p
    alone = told(tmp_path / "a", {"none": NONE, "m0": list(np.add(NONE, gains))}, role="final")
    assert alone[0] == "helps"
    names = {f"m{i}": list(np.add(NONE, np.roll(gains, i))) for i in range(5)}
    kind, sentence, _ = told(tmp_path / "b", {"none": NONE, **names}, role="final")
    assert kind == "same"
    assert "after Holm's correction for 5 comparisons" in sentence


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_for_a_verdict(tmp_path, n):
    kind, sentence, notes = told(tmp_path, {"none": NONE[:n], "auto": BETTER[:n]})
    assert kind == "few"
    assert sentence.startswith("Too few seeds for a verdict.")
    assert f"n={n}" in sentence
    assert "sign-flip" not in notes


def test_the_floor_of_the_exact_test_is_named_where_it_binds(tmp_path):
    assert "cannot go below 0.0625 at n=5" in told(tmp_path / "a", {"none": NONE, "auto": BETTER})[2]
    assert (
        "sign-flip"
        not in told(tmp_path / "b", {"none": [*NONE, 0.5, 0.51], "auto": [*BETTER, 0.53, 0.541]})[2]
    )


def test_divergence_is_never_dropped(tmp_path):
    none, auto = [0.5, None, 0.51, None, 0.5], [0.53, 0.54, 0.52, 0.53, 0.51]
    kind, sentence, _ = told(tmp_path / "a", {"none": none, "auto": auto})
    assert kind == "diverged"
    assert "none diverged in 2 of 5 runs" in sentence
    kind, sentence, _ = told(tmp_path / "b", {"none": [None] * 3, "auto": auto[:3]})
    assert (
        sentence
        == "Without clipping 3 of 3 runs diverged, so there is no mean to compare with; auto finished 3 of 3."
    )
    kind, sentence, _ = told(tmp_path / "c", {"none": [None] * 3, "auto": [None] * 3})
    assert (kind, sentence) == ("diverged", "No verdict: every run diverged. Lower the learning rate.")
    kind, sentence, notes = told(tmp_path / "d", {"none": NONE, "auto": BETTER, "norm": [None, *BETTER[1:]]})
    assert kind == "helps"
    assert "Norm" not in sentence
    assert "norm diverged in 1 of 5 runs: no mean difference exists there" in notes.replace("Norm", "norm")


def test_nothing_to_compare_with(tmp_path):
    assert told(tmp_path / "a", {"auto": BETTER})[1].startswith(
        "No verdict: there is no run without clipping"
    )
    assert (
        told(tmp_path / "b", {"none": NONE})[1] == "No verdict: There is no clipped run to compare with none."
    )


def test_a_sweep_is_descriptive_only(tmp_path):
    kind, sentence, notes = told(tmp_path, {"none": NONE, "auto": BETTER})
    assert kind == "helps"
    assert sentence.startswith("In these runs clipping helps")
    assert "One learning rate for all: descriptive only, not a verdict." in notes
    write_methods(tmp_path, {"none": NONE}, lr=0.2)
    assert "1 to 2 settings a method" in " ".join(judge(ranking_of(tmp_path)).notes)


def test_each_method_stands_at_its_best_by_validation_against_none_at_its_own(tmp_path):
    write_methods(tmp_path, {"none": NONE, "auto": BETTER}, lr=0.1)
    write_methods(tmp_path, {"none": [0.6] * 5, "auto": [0.4] * 5}, lr=0.01)
    found = ranking_of(tmp_path)
    assert {method.name: method.configuration.settings["lr"] for method in found.methods} == {
        "none": 0.01,
        "auto": 0.1,
    }
    assert found.comparisons["auto"].difference.estimate == pytest.approx(np.mean(BETTER) - 0.6)
    assert {method.name: method.edges for method in found.methods} == {"none": {"lr": 1}, "auto": {"lr": 1}}


def test_other_settings_are_not_compared(tmp_path):
    write_methods(tmp_path / "r", {"none": NONE, "auto": BETTER}, batch_size=16)
    for name, values in {"none": NONE, "auto": BETTER}.items():
        for seed, value in enumerate(values):
            write(tmp_path / "r", name, seed, value, batch_size=64)
    (group,) = read_groups(tmp_path / "r")
    assert {found.context for found in rankings(group)} == {"batch_size=16", "batch_size=64"}


def test_tuning_and_final_runs_are_never_mixed(tmp_path):
    found = study(tmp_path)
    assert {method.name: (method.n, method.tried) for method in found.methods} == {
        "none": (5, 5),
        "norm": (5, 5),
        "none (default)": (5, 1),
    }
    assert found.reference.score.estimate == pytest.approx(np.mean(NONE))
    assert set(found.comparisons) == {"norm"}
    verdict = judge(found)
    assert verdict.kind == "short"
    assert "so the search was too small" in verdict.sentence
    assert "Check at ∞ failed: norm lost to none" in " ".join(verdict.notes)
    tuned = stats.ttest_1samp(0.1 - 0.001 * np.arange(5), 0).confidence_interval(0.95)
    ends = f"{100 * tuned.low:.1f} to {100 * tuned.high:.1f}"
    gain = f"+9.8 points of accuracy from its defaults (95 % interval {ends}, n=5"
    assert gain in " ".join(verdict.notes)
    assert facts(found)["seeds"] == "final 1, 2, 3, 4, 5; tuning 0"
    best = dict(panels.budget(found))
    (figure,) = best.values()
    expected = [line.get_ydata() for line in figure.axes[0].lines]
    worst_counts_twice = [0.79, 0.79, 0.89, 0.89, 0.94]  # one of the five diverged
    means = [np.mean([max(drawn) for drawn in combinations(worst_counts_twice, k)]) for k in range(1, 6)]
    np.testing.assert_allclose(expected, [means] * len(expected))


def test_what_an_earlier_smaller_tuning_chose_is_left_out(tmp_path):
    """Two more trials, and another winner: the final runs of the first must not be chosen among."""
    for trial, value in enumerate([0.6, 0.5, 0.7]):
        for name in ("none", "norm"):
            level = None if name == "none" else trial + 1.0
            write(tmp_path, name, 0, value, level=level, lr=0.1 * (trial + 1), role="tune", trial=trial)
    for seed, value in enumerate(NONE):
        for trial, shift in {
            0: 0.2,
            2: 0.0,
        }.items():  # the earlier choice looks better on the seeds that judge
            write(tmp_path, "none", seed + 1, value + shift, lr=0.1 * (trial + 1), role="final", trial=trial)
            write(
                tmp_path,
                "norm",
                seed + 1,
                value + shift,
                level=trial + 1.0,
                lr=0.1 * (trial + 1),
                role="final",
                trial=trial,
            )
    found = ranking_of(tmp_path)
    assert {method.name: method.configuration.settings["lr"] for method in found.methods} == pytest.approx(
        {"none": 0.3, "norm": 0.3}
    )
    assert found.reference.score.estimate == pytest.approx(np.mean(NONE))
    assert "10 of what an earlier, smaller tuning chose" in " ".join(found.group.notes)


def test_a_method_whose_final_runs_failed_still_counts_for_holm(tmp_path):
    for name in ("none", "norm", "auto"):
        write(tmp_path, name, 0, 0.5, role="tune", trial=0)
    gains = [0.020, 0.002, 0.018, 0.022, 0.012]
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, value + gains[seed], role="final", trial=0)
        write(tmp_path, "auto", seed + 1, None, "failed", role="final", trial=0)
    found = ranking_of(tmp_path)
    alone = stats.ttest_rel(np.add(NONE, gains), NONE).pvalue
    assert found.comparisons["norm"].adjusted == pytest.approx(2 * alone)
    assert "Not compared: auto" in " ".join(judge(found).notes)


def test_unequal_budgets_are_descriptive_only(tmp_path):
    for trial in range(4):
        write(tmp_path, "none", 0, 0.5, lr=0.1 + trial, role="tune", trial=trial)
        if trial < 2:
            write(tmp_path, "norm", 0, 0.5, level=1.0, lr=0.1 + trial, role="tune", trial=trial)
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "norm", seed + 1, BETTER[seed], level=1.0, role="final", trial=0)
    verdict = judge(ranking_of(tmp_path))
    assert verdict.descriptive
    assert "the methods had 2 to 4 trials" in " ".join(verdict.notes)


@pytest.mark.parametrize(
    ("status", "level", "expected"),
    [("diverged", np.inf, "failed: norm"), ("done", 5.0, "Without such a trial")],
)
def test_the_check_at_infinity_looks_at_what_was_tried(tmp_path, status, level, expected):
    """A tuned method that diverges where none does has lost; one that never had the choice of no clipping
    owes nothing.
    """
    for trial in range(2):
        write(tmp_path, "none", 0, 0.5, lr=0.1 + trial, role="tune", trial=trial)
        write(
            tmp_path, "norm", 0, 0.5, level=level if trial else 1.0, lr=0.1 + trial, role="tune", trial=trial
        )
        write(
            tmp_path, "auto", 0, 0.5, level=np.inf if trial else 1.0, lr=0.1 + trial, role="tune", trial=trial
        )
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed + 1, value, role="final", trial=0)
        write(tmp_path, "auto", seed + 1, value, level=1.0, role="final", trial=0)
        write(
            tmp_path,
            "norm",
            seed + 1,
            value - 0.05,
            status if seed == 2 else "done",
            level=1.0,
            role="final",
            trial=0,
        )
    assert expected in " ".join(judge(ranking_of(tmp_path)).notes)


def test_a_method_that_clipped_no_step_is_no_help_of_clipping(tmp_path):
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed, value, role="final")
        write(tmp_path, "norm", seed, BETTER[seed], level=np.inf, lr=0.3, role="final")
    verdict = judge(ranking_of(tmp_path))
    assert verdict.kind == "same"
    assert "without clipping a step" in verdict.sentence


def test_runs_without_a_number_are_named_as_that(tmp_path):
    _, sentence, _ = told(tmp_path, {"none": [np.nan] * 3, "norm": [np.nan] * 3})
    assert sentence == "No verdict: the runs have no accuracy that is a number."


def test_methods_of_several_optimizers_stand_side_by_side(tmp_path):
    """A published figure's methods: three levels, plain SGD and Adam, each as it stands."""
    for seed, value in enumerate(NONE):
        for level in (1.0, 2.0, 3.0):
            write(tmp_path, "norm", seed, value + 0.001 * level * (seed % 2), level=level)
        write(tmp_path, "none", seed, value)
        write(tmp_path, "none", seed, BETTER[seed], optim="adam", lr=0.01)
    (group,) = read_groups(tmp_path, apart=True)
    (found,) = rankings(group)
    assert {method.name for method in found.methods} == {
        "sgd none",
        "adam none",
        "sgd norm 1",
        "sgd norm 2",
        "sgd norm 3",
    }
    assert found.reference.name == "sgd none"
    verdict = judge(found)
    assert (verdict.kind, verdict.descriptive) == ("ahead", True)
    assert verdict.sentence.startswith("Ahead of sgd none: adam none +3.1 points of accuracy over sgd none")
    names = [path.name for path in draw(tmp_path, tmp_path / "out", apart=True)]
    assert "toy_mini_comparison.png" in names
    assert "gain over sgd none" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_skipped_steps_are_not_clipped_and_are_told(tmp_path):
    write(tmp_path, "none", 0, 0.5, skipped=1)
    write(tmp_path, "norm", 0, 0.5)
    found = ranking_of(tmp_path)
    assert {method.name: method.clipped for method in found.methods} == {"none": 0.0, "norm": 1.0}
    assert "Steps skipped for a gradient that was not finite: none 1." in judge(found).notes


def test_a_study_that_is_still_tuning(tmp_path):
    write(tmp_path, "none", 0, 0.5, role="tune", trial=0)
    assert [path.name for path in draw(tmp_path, tmp_path / "out")] == ["report.html"]
    assert "only tuning runs are there" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

"""The report says in words what the numbers allow, and nothing more."""

import math
from itertools import combinations

import numpy as np
import pytest
from madeup import BETTER, NONE, interval, ranking_of, study, told, write, write_methods
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.report import panels
from clipbench.report.cells import cells
from clipbench.report.draw import draw
from clipbench.report.provenance import facts
from clipbench.report.table import full_row, tables


def test_a_difference_is_told_with_its_interval_and_n(tmp_path):
    kind, sentence, notes = told(tmp_path, {"none": NONE, "auto": BETTER}, role="final")
    low, high = interval(BETTER)
    gain = 100 * np.mean(np.subtract(BETTER, NONE))
    assert kind == "helps"
    difference = f"auto +{gain:.1f} points of accuracy against no clipping"
    ends = f"{100 * low:.1f} to {100 * high:.1f}"
    assert sentence == f"At these settings clipping helps: {difference} (95 % interval {ends}, n=5)."
    assert "Tuned once" in notes


def test_a_loss_and_a_mixture_are_told(tmp_path):
    worse = [value - 0.1 for value in BETTER]
    assert told(tmp_path / "a", {"none": NONE, "norm": worse}, role="final")[:2][0] == "hurts"
    kind, sentence, _ = told(tmp_path / "b", {"none": NONE, "norm": worse, "auto": BETTER}, role="final")
    assert kind == "mixed"
    assert sentence.startswith("It depends on how one clips: auto +3.1 points")
    assert "norm −6.9 points" in sentence


@pytest.mark.parametrize(("none", "auto", "kind"), [(BETTER, NONE, "helps"), (NONE, BETTER, "hurts")])
def test_where_less_is_better_the_sign_stays_the_metrics_own(tmp_path, none, auto, kind):
    found, sentence, _ = told(tmp_path, {"none": none, "auto": auto}, role="final", higher=False)
    assert found == kind
    low, high = interval(auto, none)
    ends = f"{low:.4f} to {high:.4f}".replace("-", "−")
    assert f"(lower is better, 95 % interval {ends}, n=5)" in sentence
    assert f"{np.mean(np.subtract(auto, none)):+.4f} accuracy".replace("-", "−") in sentence
    row = full_row(ranking_of(tmp_path), ranking_of(tmp_path).judged[-1 if kind == "hurts" else 0])
    assert (row["method"], row["difference_low"]) == ("auto", pytest.approx(low))


def test_undecided_is_told_with_how_many_would_decide_it(tmp_path):
    noise = [0.01, -0.02, 0.015, -0.005, 0.01]
    kind, sentence, _ = told(tmp_path, {"none": NONE, "auto": list(np.add(NONE, noise))}, role="final")
    assert kind == "undecided"
    assert sentence.startswith("Undecided: 5 seeds cannot tell whether clipping matters. The largest")
    spread, mean = np.std(noise, ddof=1), np.mean(noise)
    n = next(n for n in range(3, 999) if stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) < mean)
    assert f"about {n} seeds, fixed beforehand, would decide it" in sentence


def test_equivalent_is_told_with_what_is_worth_telling(tmp_path):
    noise = [0.0002, -0.0004, 0.0003, -0.0001, 0.0002]
    more = {"role": "final", "resolution": 0.0001, "worth": 0.002}
    kind, sentence, _ = told(tmp_path, {"none": NONE, "auto": list(np.add(NONE, noise))}, **more)
    assert kind == "equivalent"
    assert "auto lies within ±0.2 points of accuracy of no clipping" in sentence
    assert sentence.startswith("No difference worth telling.")
    together = {"none": NONE, "auto": list(np.add(NONE, noise)), "norm": BETTER}
    kind, sentence, _ = told(tmp_path / "b", together, **more)
    assert kind == "helps"
    assert "Equivalent within ±0.2 points of accuracy: auto." in sentence


def test_sentence_table_and_page_tell_one_outcome(tmp_path):
    for gain, outcome in ((0.03, "different"), (0.0, "equivalent"), (0.004, "undecided")):
        noise = 0.001 * np.array([1, -1, 2, -2, 1.0])
        folder = tmp_path / outcome
        spread = 4 if outcome == "undecided" else 1
        methods = {"none": NONE, "auto": list(np.array(NONE) + gain + spread * noise)}
        found = write_methods(folder, methods, role="final", resolution=1e-4, worth=0.003)
        comparison = found.comparisons["auto"]
        assert comparison.outcome == outcome
        assert (comparison.adjusted < 0.05) == (0 not in comparison.difference)
        auto = next(method for method in found.methods if method.name == "auto")
        assert full_row(found, auto)["outcome"] == outcome
        assert outcome in [cell.text for cell in cells(found, auto)]
        assert f" {outcome} " in tables(folder, ["md"])["md"]
        assert f" {outcome} " in tables(folder, ["latex"])["latex"]


def test_the_correction_takes_a_difference_back(tmp_path):
    """Each of five methods would be called different alone; together none may be."""
    gains = [0.020, 0.002, 0.018, 0.022, 0.012]
    p = stats.ttest_rel(np.add(NONE, gains), NONE).pvalue
    assert p < 0.05 < 5 * p
    alone = told(tmp_path / "a", {"none": NONE, "m0": list(np.add(NONE, gains))}, role="final")
    assert alone[0] == "helps"
    names = {f"m{i}": list(np.add(NONE, np.roll(gains, i))) for i in range(5)}
    kind, _, notes = told(tmp_path / "b", {"none": NONE, **names}, role="final")
    assert kind == "undecided"
    assert "hold for all 5 tests together (Bonferroni)" in notes


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_for_a_verdict(tmp_path, n):
    kind, sentence, notes = told(tmp_path, {"none": NONE[:n], "auto": BETTER[:n]})
    assert kind == "few"
    assert sentence.startswith("Too few seeds for a verdict on means.")
    assert f"(n={n})" in sentence
    assert "ntervals and p" not in notes
    text = tables(tmp_path, ["md", "latex", "csv"])
    assert "±" not in text["md"]
    row = full_row(ranking_of(tmp_path), ranking_of(tmp_path).methods[0])
    assert (row["low"], row.get("p"), row.get("difference_low")) == (None, None, None)


def test_divergence_is_told_before_any_mean(tmp_path):
    none, auto = [0.5, None, 0.51, None, 0.5], [0.53, 0.54, 0.52, 0.53, 0.51]
    kind, sentence, notes = told(tmp_path / "a", {"none": none, "auto": auto})
    assert kind == "undecided"
    assert sentence.startswith("Diverged: no clipping 2 of 5 runs; that could be chance (p=.89).")
    assert "n=3" in sentence
    assert "means over the seeds in which both came to an end" in notes
    kind, sentence, _ = told(tmp_path / "b", {"none": [None] * 5, "auto": auto}, role="final")
    assert kind == "helps"
    p = f"{2 / math.comb(10, 5):.3f}".lstrip("0")
    counts = "auto diverged in 0 of 5 runs, no clipping in 5 of 5"
    start = f"At these settings clipping helps: {counts} (Fisher's exact test, p={p})."
    assert sentence.startswith(start)
    kind, sentence, _ = told(tmp_path / "c", {"none": auto, "norm": [None] * 5}, role="final")
    assert kind == "hurts"
    kind, sentence, _ = told(tmp_path / "d", {"none": [None] * 3, "auto": [None] * 3})
    assert (kind, sentence) == ("diverged", "No verdict: every run diverged. Lower the learning rate.")
    kind, sentence, _ = told(tmp_path / "e", {"none": NONE, "auto": BETTER, "norm": [None, *BETTER[1:]]})
    assert kind == "helps"
    assert sentence.startswith("Diverged: no clipping 0 of 5 runs, norm 1 of 5; that could be chance")


def test_nothing_is_learned_below_the_baseline(tmp_path):
    """Two arms that both do worse than the majority class differ surely."""
    methods = {"none": NONE, "auto": BETTER}
    kind, sentence, _ = told(
        tmp_path / "a", methods, role="final", baseline="majority class", baseline_test=0.6
    )
    assert kind == "unlearned"
    assert "Nothing was learned: neither no clipping nor a method beats the baseline (majority" in sentence
    assert told(tmp_path / "b", methods, role="final", baseline_test=0.52)[0] == "helps"
    methods = {"none": NONE, "auto": BETTER, "norm": [value + 0.2 for value in BETTER]}
    kind, sentence, _ = told(tmp_path / "c", methods, role="final", baseline_test=0.6)
    assert kind == "helps"
    assert "Behind the baseline, as none is: auto." in sentence


def test_where_less_is_better_behind_the_baseline_is_above_it(tmp_path):
    less = [value - 0.1 for value in NONE]
    more = {"role": "final", "higher": False, "baseline": "always the mean", "baseline_test": 0.45}
    assert told(tmp_path / "a", {"none": NONE, "auto": less}, **more)[0] == "helps"
    kind, sentence, _ = told(tmp_path / "b", {"none": NONE, "auto": BETTER}, **more)
    assert kind != "hurts"
    assert (
        "Nothing was learned: neither no clipping nor a method beats the baseline (always the mean, 0.45)."
        in sentence
    )


def test_who_is_behind_a_baseline_that_has_learned_itself_may_have_learned_much(tmp_path):
    more = {"role": "final", "higher": False, "baseline": "5-gram", "baseline_test": 0.45}
    kind, sentence, notes = told(tmp_path / "a", {"none": NONE, "auto": BETTER}, **more)
    assert kind == "hurts"
    assert "Nothing was learned" not in sentence
    assert "No method beats the baseline (5-gram, 0.45) in so many steps." in notes
    less = [value - 0.1 for value in NONE]
    _, _, notes = told(tmp_path / "b", {"none": NONE, "auto": less}, **more | {"baseline_test": 0.85})
    assert not any("No method beats" in note for note in notes)


@pytest.mark.parametrize("column", ["data", "git"])
def test_runs_on_other_data_or_of_another_version_are_not_compared(tmp_path, column):
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed, value, **{column: "a"})
        write(tmp_path, "auto", seed, BETTER[seed], **{column: "a" if seed < 3 else "b"})
        write(tmp_path, "norm", seed, BETTER[seed], **{column: "b"})
    found = ranking_of(tmp_path)
    assert set(found.comparisons) == {"auto"}
    assert found.comparisons["auto"].difference.n == 3
    notes = " ".join(judge(found).notes)
    assert "auto: 2 pairs are left out" in notes
    assert "norm: 5 pairs are left out" in notes


@pytest.mark.parametrize(("column", "words"), [("device", "devices"), ("versions", "library versions")])
def test_another_device_or_library_is_told(tmp_path, column, words):
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed, value, **{column: "{}"})
        write(tmp_path, "auto", seed, BETTER[seed], **{column: "{}" if seed else '{"torch": "2"}'})
    found = ranking_of(tmp_path)
    assert found.comparisons["auto"].difference.n == 5
    assert f"Compared across different {words}" in " ".join(judge(found).notes)


def test_other_spaces_of_learning_rates_are_told(tmp_path):
    for shift, words in ((0.0, False), (0.1, True)):
        folder = tmp_path / str(shift)
        for name in ("none", "norm"):
            for trial in range(2):
                lr = 0.1 * (trial + 1) + shift * (name == "norm")
                write(folder, name, 0, 0.5, lr=lr, role="tune", trial=trial)
            for seed, value in enumerate(NONE):
                write(folder, name, seed + 1, value, role="final", trial=0)
        assert ("drawn from different spaces" in " ".join(judge(ranking_of(folder)).notes)) == words


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


def test_a_method_whose_final_runs_failed_still_counts(tmp_path):
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


@pytest.mark.parametrize("shift", [1, -1])
def test_a_method_that_clipped_no_step_neither_helps_nor_hurts(tmp_path, shift):
    for seed, value in enumerate(NONE):
        write(tmp_path, "none", seed, value, role="final")
        other = value + shift * (BETTER[seed] - value)
        write(tmp_path, "norm", seed, other, level=np.inf, lr=0.3, role="final")
    verdict = judge(ranking_of(tmp_path))
    assert verdict.kind == "undecided"
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
    assert verdict.sentence.startswith(
        "Ahead of sgd none: adam none +3.1 points of accuracy against sgd none"
    )
    names = [path.name for path in draw(tmp_path, tmp_path / "out", apart=True)]
    assert "toy_mini_comparison.png" in names
    assert "difference to sgd none" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


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

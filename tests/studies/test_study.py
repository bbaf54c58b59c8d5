"""Studies end to end: what is asked for, what is made, what resumes after an interrupt, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from clipbench.analysis.choice import winners
from clipbench.api import finished_row, make_run
from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.runs.events import Ended
from clipbench.runs.plan import make_plan
from clipbench.studies.contest import contests
from clipbench.studies.protocol import check_folder, choice, estimate_study, run_study
from clipbench.studies.results import contest_cost, contest_results, ended_rows, headline
from clipbench.studies.space import Axis
from clipbench.sweeps.estimate import Left
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.sweeps.scheduler import make_runs
from clipbench.sweeps.speed import NoSpeed
from clipbench.task.seeds import generator

OWN = Path(__file__).parents[1].joinpath("tiny.py")
RULE = '''
from dataclasses import dataclass
from clipbench.optim import Rule

@dataclass(frozen=True)
class Smooth(Rule):
    """α = η/√(η² + k·‖g‖²)"""
    clipping_level: float = 1.0
    k: float = 1.0

    def __call__(self, grads, params, state, rng):
        level = self.clipping_level
        return level / (level**2 + self.k * grads.norm**2).sqrt(), state

@dataclass(frozen=True)
class Broken(Smooth):
    """raises"""

    def __call__(self, grads, params, state, rng):
        raise RuntimeError("broken")
'''
FRAGILE = """
from dataclasses import dataclass
from clipbench.optim import Rule

@dataclass(frozen=True)
class Fragile(Rule):
    '''α = 1; raises above k = 0.5'''
    k: float = 0.0

    def __call__(self, grads, params, state, rng):
        if self.k > 0.5:
            raise RuntimeError("broken")
        return grads.norm * 0 + 1, state
"""
STUDY = """
# two methods, a first look
methods: [none, norm]
trials: 4
repetitions: 2
halving: 3
length: 1
draws: 0
space:
  lr: {log: [1, 30]}
  clipping_level: {log: [0.01, 10], also: .inf, share: 0.25}
own:
  own_rule:Smooth:
    k: {linear: [0.5, 2]}
"""


OVERRIDES = ["task=line", "steps=12", "eval_every=4", "study=small"]


def prepare(folder):
    """A user's folder: a task, two rules and a study."""
    (folder / "task").mkdir()
    (folder / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (folder / "own_line.py").write_text(OWN.read_text())
    (folder / "own_rule.py").write_text(RULE)
    (folder / "study").mkdir()
    (folder / "study" / "small.yaml").write_text(STUDY)


def forget():
    for name in ("own_line", "own_rule"):
        sys.modules.pop(name, None)


@pytest.fixture
def own(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    forget()


def found(*overrides):
    return contests([*OVERRIDES, *overrides], Path("."))


def study(*overrides, **options):
    return run_study(found(*overrides), make_runs, **options)


def make_here(plans):
    """In this process, one after the other, where workers are not what is tested."""
    statuses = {}
    for plan in plans:
        row = finished_row(plan) or make_run(plan, never)
        statuses[plan.run] = row["status"]
    return SweepOutcome(tuple(plans), statuses)


def table(name, folder="results"):
    return pd.read_parquet(Path(folder) / name)


METHODS = ["none", "norm", "own_rule:Smooth"]  # none is added


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished study of a task and a rule of one's own, its outcome, and its phases."""
    folder = tmp_path_factory.mktemp("finished")
    prepare(folder)
    phases = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        outcome = study(
            "optim.clipping_type=norm,own_rule:Smooth",
            phase=lambda name, plans: phases.append((name, len(plans))),
        )
        forget()
    return folder, outcome, phases


@pytest.fixture
def there(finished, monkeypatch):
    """In the folder of the finished study."""
    monkeypatch.chdir(finished[0])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield found("optim.clipping_type=norm,own_rule:Smooth")
    forget()


def test_a_study_of_ones_own_task_and_rule_tunes_all_alike_and_compares_on_fresh_seeds(finished, there):
    _, outcome, phases = finished
    # of 4 trials the best 2 go on at step 4, a third of 12
    assert phases == [("tuning, rung 1 of 2", 24), ("tuning, rung 2 of 2", 12), ("final", 12)]
    assert not outcome.interrupted
    assert outcome.mistakes == outcome.shortfall == ()
    assert all(rung.is_complete for rung in outcome.tuning)
    assert outcome.finals.is_complete
    runs = table("runs")
    tune, final, default = (runs[runs["role"] == role] for role in ("tune", "final", "default"))
    assert set(runs["study"]) == {"small"}
    assert tune.groupby("method").size().to_dict() == dict.fromkeys(METHODS, 8)
    done = tune[tune["status"] == "done"]
    assert done.groupby(["method", "repetition"]).size().to_dict() == dict.fromkeys(
        product(METHODS, (0, 1)), 2
    )
    assert set(done["steps"]) == {12}
    others = tune[tune["status"] != "done"]
    assert set(others["status"]) == {"stopped", "diverged"}  # one of Smooth's draws does, in each repetition
    assert (others["steps"] == 4).to_list() == (others["status"] == "stopped").to_list()
    for part in (final, default):
        assert part.groupby("method").size().to_dict() == dict.fromkeys(METHODS, 2)
    assert (tune["seed"] == 1000 + tune["repetition"]).all()
    for part in (final, default):
        assert (part["seed"] == part["repetition"]).all()
    assert default["trial"].isna().all()
    assert final["final_test"].notna().all()
    assert default["final_test"].notna().all()
    assert tune["final"].notna().to_list() == (tune["status"] != "diverged").to_list()
    assert tune["final_test"].isna().all()
    evals = table("evals")
    assert set(evals[evals["run"].isin(tune["run"])]["split"]) == {"train", "val"}

    lowest = done.groupby(["repetition", "method"])["final"].idxmin()  # mean squared error
    best = done.loc[lowest].set_index(["repetition", "method"])
    trials = best["trial"].astype(int)
    chosen = {repetition: trials[repetition].to_dict() for repetition in (0, 1)}
    assert outcome.chosen == {"line (mini) · adamw": chosen} == choice(there)
    assert final.set_index(["repetition", "method"])["trial"].to_dict() == trials.to_dict()
    assert winners(runs).set_index(["repetition", "method"])["trial"].to_dict() == trials.to_dict()
    for row in final.itertuples():
        assert row.lr == best.loc[(row.repetition, row.method), "lr"]
    lrs = tune.groupby(["repetition", "trial"])["lr"].agg(set)
    assert all(len(found) == 1 for found in lrs)  # shared by the methods
    assert len(set.union(*lrs)) == 8  # but not by the repetitions
    settings = pd.json_normalize([json.loads(text) for text in tune["config"]])
    assert settings["optim.clip.k"].dropna().between(0.5, 2).all()
    assert settings["optim.clip.k"].nunique() == 8


def test_who_goes_on_at_a_rung_was_best_there(there):
    evals = table("evals").query("split == 'val' and metric == 'mse' and step == 4").set_index("run")["value"]
    runs = table("runs").query("role == 'tune'")
    runs = runs.assign(then=runs["run"].map(evals))
    for _, part in runs.groupby(["repetition", "method"]):
        went_on = part[part["status"] == "done"]["then"]
        assert len(went_on) == 2
        assert went_on.max() < part[part["status"] == "stopped"]["then"].min()


def test_a_run_that_went_on_from_a_rung_is_the_run_that_never_stopped(there, tmp_path):
    [contest] = there
    plan = next(
        plan for plan in contest.tuning() if finished_row(plan) and plan.settings.tag.method == "norm"
    )
    settings = ["results=alone", *plan.overrides]
    monkey = make_plan(settings, Path("."))
    assert monkey.run == plan.run
    assert make_run(monkey, never)["steps"] == 12
    for name in ("steps", "evals"):
        parts = []
        for folder in ("results", "alone"):
            rows = table(name, folder).query(f"run == '{plan.run}'").drop(columns="seconds")
            parts.append(rows.reset_index(drop=True))
        pd.testing.assert_frame_equal(*parts, check_exact=True)


def test_the_results_of_a_study_are_those_of_its_table(there):
    [contest] = there
    rows = table("runs")
    results = contest_results(contest, rows)
    assert [result.method for result in results] == METHODS
    assert headline(contest, rows) == "mse"
    for result in results:
        mine = rows[rows["method"] == result.method].set_index("trial", drop=False)
        for repetition, choice_ in enumerate(result.choices):
            is_chosen = (mine["role"] == "tune") & (mine["repetition"] == repetition)
            chosen = mine[is_chosen & (mine["trial"] == choice_.trial)].iloc[0]
            assert (choice_.repetition, choice_.validation) == (repetition, chosen["final"])
            assert choice_.hyperparameters["lr"] == chosen["lr"]
            assert not choice_.diverged
        for role, values in (("final", result.chosen), ("default", result.defaults)):
            on_test = mine[mine["role"] == role]["final_test"]
            assert sorted(values.values) == sorted(on_test)
            assert values.mean == pytest.approx(on_test.mean())
            assert values.diverged == 0
    assert set(results[2].choices[0].hyperparameters) == {"lr", "clipping_level", "k"}
    others = rows.assign(task="another")
    assert contest_results(contest, pd.concat([rows, others])) == results
    plans = contest.tuning()[:3]
    assert set(ended_rows(plans)["run"]) == {plan.run for plan in plans}


def test_a_finished_study_is_estimated_as_made(there):
    counts = {}
    for name, phase in estimate_study(there).items():
        counts[name] = phase.runs
        assert (phase.finished, phase.left) == (phase.runs, Left())
    assert counts == {"tuning, rung 1 of 2": 24, "tuning, rung 2 of 2": 12, "final": 12}


def test_the_command_shows_what_was_chosen_and_draws_it(there, capsys):
    words = ["study", "--config-dir", ".", *OVERRIDES, "optim.clipping_type=norm,own_rule:Smooth"]
    assert main(words) == 0
    said = capsys.readouterr().out
    share = "of 4 trials 2 go on at step 4: 67% of their steps"  # (4·4 + 2·8) / (4·12)
    assert f"3 methods × 4 trials × 2 repetitions: 24 runs; {share}" in said
    assert "own_rule:Smooth: clipping_level 0.01 to 10 (log) or inf (0.25 of the trials), k 0.5 to 2" in said
    assert "small · line (mini) · adamw · mse" in said
    assert list(Path("results/figures").glob("line_mini_adamw_small_comparison.png"))
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Tuning, rung 1 of 2: 24 runs into results: 24 finished (2 diverged), 0 to do" in said
    assert "Final runs, on fresh seeds: 12 runs into results: 12 finished, 0 to do" in said
    assert "It is made already." in said
    assert "checkpoints" not in said


def test_a_dry_run_says_what_stopped_trials_take_of_the_disk(own, capsys):
    words = ["study", "--config-dir", ".", *OVERRIDES, "--dry-run"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "line (mini) · adamw: at most 8 stopped trials keep checkpoints of about " in said  # 2·2·(4 − 2)
    assert "of disk in results/.work." in said
    assert main([*words, "study.halving=1"]) == 0
    assert "checkpoints" not in capsys.readouterr().out


def test_interrupted_in_the_final_phase_it_resumes_to_the_same_tables(own):
    overrides = ["study.trials=2", "study.repetitions=1"]
    assert run_study(found(*overrides, "results=untouched"), make_here).finals.is_complete
    ended = []

    def make_phase(plans):
        if plans[0].settings.tag.role == "tune":
            return make_here(plans)

        def sink(event):
            if isinstance(event, Ended):
                ended.append(event)

        return make_runs(plans, lambda: bool(ended), sink)

    one_at_a_time = ["sweep.workers_per_device=1", "sweep.lockstep=false"]
    struck = found(*overrides, *one_at_a_time, "results=struck")
    outcome = run_study(struck, make_phase)
    assert outcome.interrupted
    assert outcome.finals.interrupted
    assert not outcome.tuning[0].interrupted
    assert outcome.shortfall == ()
    roles = table("runs", "struck")["role"]
    assert (roles == "tune").sum() == 4
    assert 0 < (roles != "tune").sum() < 4
    assert run_study(struck, make_runs).finals.is_complete
    for name in ("steps", "evals"):
        parts = []
        for folder in ("untouched", "struck"):
            rows = table(name, folder).drop(columns="seconds")
            parts.append(rows.sort_values(["run", "step"], kind="stable").reset_index(drop=True))
        pd.testing.assert_frame_equal(*parts, check_exact=True)


def make_some(plans, count):
    """The first `count` runs, and the next one's first step."""
    for plan in plans[:count]:
        make_here([plan])
    assert make_run(plans[count], lambda: True) is None
    return SweepOutcome(tuple(plans), {}, interrupted=True)


def test_interrupted_in_any_phase_it_resumes_to_the_same_tables(own):
    overrides = ["study.trials=3", "study.repetitions=1"]
    assert run_study(found(*overrides, "results=untouched"), make_here).finals.is_complete
    expected = timeless("untouched")
    for number, count in ((0, 2), (0, 5), (1, 1), (2, 3)):  # of 6, 6, 2 and 4 runs
        where = f"results=struck{number}{count}"
        phases = []

        def make_phase(plans, phases=phases, number=number, count=count):
            phases.append(len(plans))
            return make_some(plans, count) if len(phases) == number + 1 else make_here(plans)

        outcome = run_study(found(*overrides, where), make_phase)
        assert outcome.interrupted
        assert phases == [6, 2, 4][: number + 1]
        assert run_study(found(*overrides, where), make_here).finals.is_complete
        for rows, untouched in zip(timeless(where.removeprefix("results=")), expected, strict=True):
            pd.testing.assert_frame_equal(rows, untouched, check_exact=True)


def timeless(folder):
    """Steps, evaluations, and how the runs ended, without what a clock says."""
    found = []
    for name in ("steps", "evals"):
        rows = table(name, folder).drop(columns="seconds")
        found.append(rows.sort_values(["run", "step"], kind="stable").reset_index(drop=True))
    runs = table("runs", folder)[["run", "role", "repetition", "trial", "status", "steps", "final"]]
    return [*found, runs.sort_values("run").reset_index(drop=True)]


def test_what_was_stopped_is_trained_on_by_a_larger_study_or_one_without_halving(own):
    alone = ["study.repetitions=1", "optim.clipping_type=norm"]

    def ends():
        return table("runs").query("role == 'tune'").set_index(["method", "trial"]).sort_index()

    run_study(found(*alone, "study.trials=4"), make_here)
    first = ends()
    assert first.groupby("method")["status"].value_counts().to_dict() == {
        ("none", "done"): 2,
        ("none", "stopped"): 2,
        ("norm", "done"): 2,
        ("norm", "stopped"): 2,
    }
    outcome = run_study(found(*alone, "study.trials=7"), make_here)  # ⌈7/3⌉ go on
    larger = ends().loc[first.index]
    done = first["status"] == "done"
    assert (larger["ended"] == first["ended"])[done].all()
    assert (larger["status"] == "done")[done].all()
    assert len(outcome.tuning[0].plans) == 14
    stopped = larger[larger["status"] == "stopped"]["run"].iloc[0]
    shutil.rmtree(Path("results/.work", stopped))  # it begins anew, and comes to the same rows
    outcome = run_study(found(*alone, "study.trials=7", "study.halving=1"), make_here)
    assert set(ends()["status"]) == {"done"}
    assert not list(Path("results/.work").glob("r*"))  # every run is over
    assert [len(phase.plans) for phase in outcome.tuning] == [14]
    whole = ["results=whole", "study.trials=7", "study.halving=1"]
    run_study(found(*alone, *whole), make_here)
    steps = [timeless(folder)[0] for folder in ("results", "whole")]
    ours = steps[0][steps[0]["run"].isin(steps[1]["run"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, steps[1], check_exact=True)


def test_who_goes_on_does_not_depend_on_the_order_in_which_runs_end(own):
    overrides = ["study.repetitions=1", "optim.clipping_type=norm"]

    def backwards(plans):
        make_here(plans[::-1])
        return make_here(plans)

    ends = []
    for folder, make in (("a", make_here), ("b", backwards)):
        run_study(found(*overrides, f"results={folder}"), make)
        ends.append(timeless(folder)[-1])
    pd.testing.assert_frame_equal(*ends)


def test_trials_that_all_diverge_leave_nobody_to_go_on_and_the_study_comes_to_its_end(own):
    overrides = ["study.repetitions=1", "max_loss=1e-9"]
    outcome = run_study(found(*overrides), make_here)
    assert [len(phase.plans) for phase in outcome.phases] == [8, 4]  # no second rung
    assert set(table("runs")["status"]) == {"diverged"}
    assert outcome.shortfall == ()
    assert main(["study", "--config-dir", ".", *OVERRIDES, *overrides]) == 0
    assert Path("results/figures/report.html").exists()


def test_a_stopped_trial_is_an_end_like_others_for_those_who_look(own, capsys):
    run_study(found("study.repetitions=1", "optim.clipping_type=norm"), make_here)
    assert main(["status", "results"]) == 0
    said = capsys.readouterr().out
    assert "results: 12 runs: 8 done, 4 stopped\n" in said
    assert "Unfinished" not in said
    assert main(["rm", "results", "status=stopped", "--yes"]) == 0
    assert "Removed 4 runs" in capsys.readouterr().out
    assert not list(Path("results").glob(".work/*"))
    assert set(table("runs")["status"]) == {"done"}


def test_interrupted_in_tuning_nothing_is_chosen_and_no_final_run_is_asked_for(own):
    phases = []
    outcome = run_study(
        found("study.trials=1"),
        lambda plans: make_runs(plans, lambda: True),
        lambda name, plans: phases.append(name),
    )
    assert phases == ["tuning"]  # a single trial has no rung
    assert outcome.interrupted
    assert (outcome.chosen, outcome.finals, outcome.shortfall) == ({}, None, ())


def reset_ctrl_c():
    """A shell makes what it starts in the background deaf to Ctrl-C, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.ci
def test_ctrl_c_between_the_phases_keeps_tuning(own):
    words = [*OVERRIDES, "study.repetitions=1", "results=struck"]
    command = [sys.executable, "-m", "clipbench", "study", "--config-dir", ".", *words]
    tuning = str(generator(1000, "data").initial_seed())
    slow = os.environ | {"LINE_SECONDS": "1", "LINE_SWIFT": tuning, "PYTHONUNBUFFERED": "1"}
    options = {"stdout": subprocess.PIPE, "text": True, "env": slow, "preexec_fn": reset_ctrl_c}
    with open("said", "w+") as said, subprocess.Popen(command, stderr=said, **options) as process:
        assert any("Final runs" in line for line in process.stdout)  # printed before the first of them starts
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130, Path("said").read_text()
    assert (table("runs", "struck")["role"] == "tune").sum() == 8
    assert (table("runs", "struck")["role"] != "tune").sum() < 4


def test_a_dry_run_states_the_cost_and_writes_nothing(own):
    before = sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts)
    said = []
    asked = found("steps=1000000", "eval_every=100000")
    found_phases = estimate_study(asked, announce=said.append)
    assert len(said) == 1  # all phases are of one kind
    counts, steps = {}, {}
    for name, phase in found_phases.items():
        assert (phase.finished, phase.left.known) == (0, phase.runs)
        counts[name] = phase.runs
        steps[name] = sum(kind.steps for kind in phase.kinds)
    # 2 methods, 2 repetitions; a third of a million, rounded up to an evaluation
    assert counts == {"tuning, rung 1 of 2": 16, "tuning, rung 2 of 2": 8, "final": 8}
    assert list(steps.values()) == [16 * 400_000, 8 * 600_000, 8 * 1_000_000]
    [cost] = map(contest_cost, asked)
    assert (cost.study, cost.contest, cost.steps) == ("small", "line (mini) · adamw", 1000000)
    assert (cost.methods, cost.trials, cost.repetitions) == (2, 4, 2)
    assert cost.rungs == ((400_000, 4), (1_000_000, 2))
    assert (cost.tuning_runs, cost.final_runs) == (16, 8)
    assert cost.tuning_steps == 16 * 400_000 + 8 * 600_000
    assert (cost.lr, cost.lr_axis) == (1e-3, Axis(1, 30, log=True))
    assert cost.own_axes == {"none": {}, "norm": {"clipping_level": Axis(0.01, 10, True, float("inf"), 0.25)}}
    assert sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts) == before


def test_more_trials_take_what_is_there_and_other_changes_are_refused(own):
    assert run_study(found("study.trials=1", "study.repetitions=1"), make_here).finals.is_complete
    more = ["study.trials=2", "study.repetitions=2"]
    outcome = run_study(found(*more), make_here)
    assert len(outcome.tuning[0].plans) == 8
    assert outcome.finals.is_complete
    runs = table("runs").set_index("run")
    tune = runs[runs["role"] == "tune"]
    counts = tune.groupby(["method", "repetition"])["trial"].agg(list).to_dict()
    assert set(counts) == set(product(("none", "norm"), (0, 1)))
    assert all(sorted(trials) == [0, 1] for trials in counts.values())
    assert len(tune) == 8  # the two of the first study are not made again
    message = (
        r"4 runs of study 'small' on line \(mini\) · adamw \(none, norm\) that this command would not make"
    )
    with pytest.raises(UserError, match=message):
        check_folder(found("study.trials=1"))
    for change in ("study.draws=1", "steps=8", "study.space.lr={log:[1,2]}", "study.repetitions=1"):
        with pytest.raises(UserError, match="clipbench rm results study=small task=line optimizer=adamw"):
            run_study(found("study.trials=2", change), make_runs)
    check_folder(found("study.draws=1", "results=other"))


@pytest.mark.parametrize("odd", ["fail_at: 5", "fail_at: -1\nnonsense: 1"])
def test_where_a_task_fails_the_others_go_on_to_their_end(own, odd):
    line = (own / "task" / "line.yaml").read_text()
    (own / "task" / "bad.yaml").write_text(
        line.replace("name: line", "name: bad").replace("fail_at: -1", odd)
    )
    is_mistake = "nonsense" in odd
    asked = found("task=bad,line", "study.trials=2", "study.repetitions=1")
    outcome = run_study(asked, make_runs)
    runs = table("runs")
    assert set(runs[runs["task"] == "bad"]["role"]) <= {"tune"}
    counts = runs[runs["task"] == "line"].groupby("role").size().to_dict()
    assert counts == {"tune": 4, "final": 2, "default": 2}
    assert list(outcome.chosen) == ["line (mini) · adamw"]
    assert outcome.finals.is_complete
    [tuning] = outcome.tuning
    assert len(tuning.not_made if is_mistake else tuning.failed) == 4
    assert len(outcome.mistakes) == is_mistake
    assert all("Task 'bad': " in text and "nonsense" in text for text in outcome.mistakes)
    first, advice = outcome.shortfall
    assert "bad (mini) · adamw: 4 of 4 tuning runs failed (none, norm)" in first
    assert "clipbench status results" in advice
    estimates = estimate_study(asked)
    tuning, finals = estimates["tuning"], estimates["final"]
    assert (tuning.runs, tuning.finished, tuning.left.runs) == (8, 4, 4)
    assert tuning.failed == (0 if is_mistake else 4)
    assert any(isinstance(kind.speed, NoSpeed) for kind in tuning.kinds)
    assert (finals.runs, finals.finished, finals.left.runs) == (8, 4, 4)


def test_the_command_says_once_what_failed_and_what_cannot_be_timed(own, capsys):
    words = [
        "study",
        "--config-dir",
        ".",
        *OVERRIDES,
        "study.trials=1",
        "study.repetitions=1",
        "task.fail_at=5",
    ]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.count("line (mini) · adamw: 2 of 2 tuning runs failed (none, norm)") == 1
    assert said.count("Why: clipbench status results.") == 1
    assert "Traceback" not in said
    assert main([*words[:-1], "task.fail_at=1", "results=dry", "--dry-run"]) == 0
    assert "no estimate: RuntimeError: the disk is on fire" in capsys.readouterr().out


def test_a_trial_that_failed_has_no_place_and_its_method_goes_on(own):
    (own / "own_rule.py").write_text(FRAGILE)
    (own / "study" / "small.yaml").write_text(
        STUDY.replace("Smooth", "Fragile").replace("[0.5, 2]", "[0, 1]")
    )
    outcome = study("optim.clipping_type=own_rule:Fragile", "study.repetitions=1", "study.halving=1")
    runs = table("runs")
    tune = runs.query("role == 'tune' and method == 'own_rule:Fragile'")
    assert set(tune["status"]) == {"done", "failed"}
    final = runs.query("role == 'final' and method == 'own_rule:Fragile'")
    assert set(final["trial"]) == {tune[tune["status"] == "done"].set_index("trial")["final"].idxmin()}
    failed = (tune["status"] == "failed").sum()
    assert f"{failed} of 8 tuning runs failed (own_rule:Fragile)." in outcome.shortfall[0]
    assert outcome.finals.is_complete


def test_nothing_is_chosen_where_a_method_has_no_complete_trial(own):
    outcome = study("optim.clipping_type=own_rule:Broken", "study.trials=1", "study.repetitions=1")
    runs = table("runs")
    assert set(runs["role"]) == {"tune"}
    assert runs.set_index("method")["status"].to_dict() == {"none": "done", "own_rule:Broken": "failed"}
    assert (outcome.chosen, outcome.finals) == ({}, None)
    lacking = "1 of 2 tuning runs failed (own_rule:Broken); without a complete trial of each method nothing"
    assert lacking in outcome.shortfall[0]


def plans(*overrides):
    [contest] = found(*overrides)
    first = dict.fromkeys(contest.study.methods, 0)
    return contest.tuning(), contest.finals(dict.fromkeys(range(contest.study.repetitions), first))


def test_tuning_final_and_other_runs_are_never_the_same_run(own):
    tuning, finals = plans("study.trials=1", "study.repetitions=3")
    alone = make_plan(["threads=1", *OVERRIDES[:-1], "optim.clipping_type=norm", "seed=0"], Path("."))
    default = next(
        plan for plan in finals if plan.settings.tag.role == "default" and plan.settings.tag.method == "norm"
    )
    assert default.settings.optim == alone.settings.optim
    ids = [plan.run for plan in (*tuning, *finals, alone)]
    assert len(set(ids)) == len(ids)
    assert {plan.settings.seed for plan in tuning} == {1000, 1001, 1002}
    assert {plan.settings.seed for plan in finals} == {0, 1, 2}


def test_a_run_of_no_study_has_the_id_that_it_had_before_there_were_studies():
    """Ids in folders of results that exist; the settings behind them have not changed since."""
    assert make_plan(["task=cola", "optim=sgd", "optim.clipping_type=none", "seed=0"]).run == "r1afd204ea96a"
    assert (
        make_plan(["task=reddit", "optim=adamw", "optim.clipping_type=auto", "seed=1"]).run == "r84d88df68ad7"
    )


def test_the_length_is_a_share_of_the_tasks_steps_unless_steps_are_given():
    [cola] = contests(["task=cola", "study=quick", "warmup=100"])
    assert (cola.plan.settings.steps, cola.plan.settings.eval_every, cola.plan.settings.warmup) == (
        375,
        38,
        100,
    )
    [cola] = contests(["task=cola", "study=quick", "steps=50"])
    assert (cola.plan.settings.steps, cola.plan.settings.eval_every) == (50, 150)


def test_the_learning_rate_is_drawn_around_what_the_overrides_the_task_or_the_optimizer_say(own):
    assert contests(["task=cola", "optim=sgd"])[0].lr == 0.02
    assert contests(["task=cola", "optim=sgd", "optim.lr=0.5"])[0].lr == 0.5
    assert contests(["task=line"], Path("."))[0].lr == 1e-3  # torch's own


def test_several_tasks_and_optimizers_are_a_contest_each():
    labels = [contest.label for contest in contests(["task=cola,voc", "optim=sgd,adamw"])]
    assert labels == [f"{task} (mini) · {optim}" for task in ("cola", "voc") for optim in ("sgd", "adamw")]


@pytest.mark.parametrize("name", ["quick", "standard", "full"])
def test_every_study_of_ours_is_sound(name):
    for contest in contests(["task=cola,imagenet,voc,reddit", f"study={name}"]):
        assert contest.study.repetitions >= 5
        assert contest.study.methods[0] == "none"
        assert all("lr" in axes for axes in contest.spaces.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["study=quik"],
            r"Unknown study 'quik'\. Did you mean 'quick'\? Known: controls, full, quick, small, standard\. "
            r".*DIR/study/quik.yaml",
        ),
        (["study=quick,full"], "study=quick,full has several values"),
        (["study.trals=3"], r"unknown key 'trals'\. Did you mean 'trials'"),
        (["study.trials=0"], "trials must be a whole number of at least 1, got 0"),
        (["study.trials=2.5"], "got 2.5"),
        (["study.length=0"], "length must be a number above 0"),
        (["study.methods=norm"], "methods must be a list"),
        (
            ["study.final_seeds=[1]"],
            r"final_seeds was a key of earlier versions.*study\.repetitions=N.*study\.halving=3",
        ),
        (["study.tuning_seeds=[1]"], r"tuning_seeds was a key of earlier versions.*study\.repetitions=N"),
        (["study.repetitions=0"], "repetitions must be a whole number of at least 1, got 0"),
        (["study.repetitions=1001"], "repetitions must be at most 1000, got 1001: a final seed would be one"),
        (["study.halving=0.5"], "halving must be a whole number of at least 1, got 0.5"),
        (["optim.clipping_type=nrm"], r"Unknown clipping_type 'nrm'\. Did you mean 'norm'"),
        (["optim.clipping_type=own_rule:Smoth"], "'Smoth' in own_rule must be a dataclass"),
        (
            ["study.space.cliping_level={log:[1,2]}"],
            r"space\.cliping_level: there is no such hyperparameter\. Did you mean 'clipping_level'\? "
            r"Known: beta, ",
        ),
        (
            ["study.own={norm:{betta:{log:[1,2]}}}"],
            r"own\.norm\.betta: there is no such hyperparameter\..*Known: clipping_level, lr\.",
        ),
        (["study.own={auto:3}"], r"own\.auto must be a mapping of hyperparameters to their spaces, got 3"),
        (["study.own=3"], "own must be a mapping of methods"),
        (["study.own={nrm:{beta:{log:[1,2]}}}"], r"Unknown clipping_type 'nrm'\. Did you mean 'norm'"),
        (["study.space.lr={log:[2,1]}"], r"Study 'small': space\.lr: .*the lower first"),
        (["study.space={clipping_level:{log:[1,2]}}"], "space must be a mapping with lr in it"),
        (["seed=3"], "seed=3: a study sets this itself"),
        (["tag.role=tune"], "a study sets this itself"),
        (["transform=round"], "transform=round: a study tunes training"),
        (
            ["optim.clipping_level=2"],
            r"a study draws clipping_level itself, from study\.space\.clipping_level",
        ),
        (["steps=3,4"], "steps=3,4 has several values: a study takes several of task, optim"),
        (["task=colla"], "Did you mean 'cola'"),
        (["optim.lrr=1"], "Unknown key 'optim.lrr'"),
    ],
)
def test_a_mistake_gets_one_clear_message(own, overrides, message):
    with pytest.raises(UserError, match=message):
        plans(*overrides)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("methods: [none", r"broken\.yaml cannot be read"),
        ("- 1", r"broken\.yaml must say methods, trials"),
        ("trials: 3", r"broken\.yaml must say methods, repetitions"),
        ("trials: 3\ntuning_seeds: [1]", r"tuning_seeds was a key of earlier versions"),
    ],
)
def test_a_broken_file_is_named(own, content, message):
    (own / "study" / "broken.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        plans("study=broken")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study=quick"], "a study is many runs. Make it with clipbench study study=quick"),
        (["tag.study=quick"], "go together"),
        (
            ["tag.study=quick", "tag.role=tuned", "tag.method=norm"],
            r"tag\.role must be one of tune, final, default.*Did you mean 'tune'",
        ),
        (
            ["tag.study=quick", "tag.role=tune", "tag.method=norm", "tag.trial=-1"],
            r"tag\.trial must be null or a whole number",
        ),
    ],
)
def test_run_refuses_what_only_a_study_sets(overrides, message):
    with pytest.raises(UserError, match=message):
        make_plan(overrides)


def test_the_command_offers_its_own_keys(own, capsys):
    line = "clipbench study "
    assert main(["complete", "fish", str(len(line)), line]) == 0
    offered = {answer.split("\t")[0] for answer in capsys.readouterr().out.splitlines()}
    assert {
        "study=",
        "study.trials=",
        "study.repetitions=",
        "task=",
        "optim.clipping_type=",
        "hydra/launcher=",
    } <= offered
    assert not {"seed=", "optim.clipping_level=", "+experiment=", "transform=", "transform.bits="} & offered
    line = "clipbench study --config-dir . study="
    assert main(["complete", "fish", str(len(line)), line]) == 0
    assert {answer.split("\t")[0] for answer in capsys.readouterr().out.splitlines()} == {
        f"study={n}" for n in ("controls", "quick", "standard", "full", "small")
    }

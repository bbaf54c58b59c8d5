"""Studies end to end: what is asked for, what is made, what goes on after an interrupt, what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from clipbench.analysis.choice import winners
from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.runs.plan import make_plan
from clipbench.studies.contest import arenas
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
tuning_seeds: [100]
final_seeds: [0, 1]
length: 1
draws: 0
space:
  lr: {log: [1, 30]}
  clipping_level: {log: [0.01, 10], also: .inf, share: 0.25}
own:
  own_rule:Smooth:
    k: {linear: [0.5, 2]}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (tmp_path / "own_line.py").write_text(OWN.read_text())
    (tmp_path / "own_rule.py").write_text(RULE)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "small.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_line", "own_rule"):
        sys.modules.pop(name, None)


WORDS = ["--config-dir", ".", "task=line", "steps=12", "eval_every=4", "study=small"]


def study(*words):
    return main(["study", *WORDS, *words])


def table(name, folder="results"):
    return pd.read_parquet(Path(folder) / name)


def test_a_study_of_ones_own_task_and_rule_from_tuning_to_figures(own, capsys):
    words = ["optim.clipping_type=norm,own_rule:Smooth"]
    assert study(*words) == 0
    runs = table("runs")
    methods = ["none", "norm", "own_rule:Smooth"]  # none was added
    tune, final, default = (runs[runs["role"] == role] for role in ("tune", "final", "default"))
    assert set(runs["study"]) == {"small"}
    assert tune.groupby("method").size().to_dict() == dict.fromkeys(methods, 4)
    assert (
        final.groupby("method").size().to_dict()
        == default.groupby("method").size().to_dict()
        == dict.fromkeys(methods, 2)
    )
    assert (set(tune["seed"]), set(final["seed"]), set(default["seed"])) == ({100}, {0, 1}, {0, 1})
    assert default["trial"].isna().all()
    assert final["final_test"].notna().all()
    assert default["final_test"].notna().all()
    assert tune["final"].notna().to_list() == (tune["status"] == "done").to_list()
    assert tune["final_test"].isna().all()
    evals = table("evals")
    assert set(evals[evals["run"].isin(tune["run"])]["split"]) == {"train", "val"}

    best = tune.loc[tune.groupby("method")["final"].idxmin()].set_index(
        "method"
    )  # one seed, mean squared error
    assert final.groupby("method")["trial"].agg(set).to_dict() == {
        method: {best.loc[method, "trial"]} for method in methods
    }
    assert winners(runs).set_index("method")["trial"].to_dict() == best["trial"].to_dict()
    for row in final.itertuples():
        assert row.lr == best.loc[row.method, "lr"]
    settings = pd.json_normalize([json.loads(text) for text in tune["config"]])
    assert settings["optim.clip.k"].dropna().between(0.5, 2).all()
    assert settings["optim.clip.k"].nunique() == 4

    said, progress = capsys.readouterr()
    assert re.search(r"small tune \d  mse \d+\.\d+ on validation, done", progress)
    assert all(
        (" on test" in line) == ("small tune" not in line)
        for line in progress.splitlines()
        if "  mse " in line
    )
    assert "3 methods × 4 trials × 1 seed: 12 runs" in said
    assert "own_rule:Smooth: clipping_level 0.01 to 10 (log) or inf (0.25 of the trials), k 0.5 to 2" in said
    assert list(Path("results/figures").glob("line_mini_adamw_small_comparison.png"))

    assert study(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert re.search(r"Tuning: 12 runs into results: 12 finished( \(\d diverged\))?, 0 to do", said)
    assert "Final runs: 12 runs into results: 12 finished, 0 to do" in said  # of the trials that were chosen
    assert "It is made already." in said


def hear():
    """A shell makes what it starts in the background deaf to Ctrl-C, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_between_the_phases_it_goes_on_to_the_same_tables(own):
    assert study("results=untouched") == 0
    command = [sys.executable, "-m", "clipbench", "study", *WORDS, "results=struck"]
    tuning = str(generator(100, "data").initial_seed())
    slow = os.environ | {"LINE_SECONDS": "1", "LINE_SWIFT": tuning, "PYTHONUNBUFFERED": "1"}
    with (
        open("said", "w+") as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=slow, preexec_fn=hear
        ) as process,
    ):
        assert any("Final runs" in line for line in process.stdout)  # printed before the first of them starts
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130, Path("said").read_text()
    assert (table("runs", "struck")["role"] == "tune").sum() == 8
    assert (table("runs", "struck")["role"] != "tune").sum() < 8
    assert study("results=struck") == 0
    for name in ("steps", "evals"):
        one, other = (
            table(name, folder)
            .drop(columns="seconds")
            .sort_values(["run", "step"], kind="stable")
            .reset_index(drop=True)
            for folder in ("untouched", "struck")
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_dry_run_states_the_cost_and_writes_nothing(own, capsys):
    before = sorted(own.rglob("*"))
    assert study("--dry-run", "steps=1000000", "eval_every=100000") == 0
    said, progress = capsys.readouterr()
    times = re.findall(r"[Aa]bout (\S+) (\w+)[:.]", said)
    tuning, finals, both = (
        float(time) * {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit] for time, unit in times
    )
    assert both == pytest.approx(tuning + finals, rel=0.1)
    assert progress.count("timing a few steps") == 1  # both phases are of one kind
    assert "2 methods × 4 trials × 1 seed: 8 runs" in said
    assert "2 winners and 2 defaults × 2 seeds that tuning never saw: 8 runs" in said
    assert "8 runs into results: 0 finished, 8 to do" in said
    assert "Nothing was started." in said
    assert [path for path in sorted(own.rglob("*")) if "__pycache__" not in path.parts] == before


def test_more_trials_go_on_from_what_is_there_and_other_changes_are_refused(own, capsys):
    assert study("study.trials=2") == 0
    assert study("study.trials=4", "study.final_seeds=[0,1,2]") == 0
    assert "8 runs, 4 of them finished already" in capsys.readouterr().out
    tune = table("runs").query("role == 'tune'")
    assert tune.groupby("method")["trial"].agg(set).to_dict() == {"none": {0, 1, 2, 3}, "norm": {0, 1, 2, 3}}
    for words in (
        ["study.draws=1"],
        ["steps=8"],
        ["study.space.lr={log:[1,2]}"],
        ["study.trials=2"],
        ["study.tuning_seeds=[101]"],
    ):
        assert study(*words) == 2
        error = capsys.readouterr().err
        assert (
            "of study 'small' on line (mini) · adamw (none, norm) that this command would not make" in error
        )
        assert "clipbench rm results study=small task=line optimizer=adamw" in error
    assert study("study.draws=1", "results=other", "--dry-run") == 0


@pytest.mark.parametrize(("odd", "code"), [("fail_at: 5", 1), ("fail_at: -1\nnonsense: 1", 2)])
def test_where_a_task_fails_the_others_go_on_to_their_end(own, capsys, odd, code):
    line = (own / "task" / "line.yaml").read_text()
    (own / "task" / "bad.yaml").write_text(
        line.replace("name: line", "name: bad").replace("fail_at: -1", odd)
    )
    assert study("task=bad,line", "study.trials=2") == code
    runs = table("runs")
    assert set(runs[runs["task"] == "bad"]["role"]) <= {"tune"}
    assert runs[runs["task"] == "line"].groupby("role").size().to_dict() == {
        "tune": 4,
        "final": 4,
        "default": 4,
    }
    said, error = capsys.readouterr()
    assert "small · line (mini) · adamw · mse" in said
    assert list(Path("results/figures").glob("line_*.png"))
    (message,) = [line for line in error.splitlines() if line.startswith("clipbench:")]
    assert "bad (mini) · adamw: 4 of 4 tuning runs failed (none, norm)" in message
    assert "line (mini)" not in message
    assert ("Task 'bad': " in message and "nonsense" in message) == (code == 2)
    assert "Skipped" not in error
    assert "clipbench status results" in message
    assert study("task=bad,line", "study.trials=2", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "Tuning: 8 runs into results: 4 finished, 4 to do" in said
    assert "4 failed that are tried again" in said or code == 2
    assert "no estimate: " in said
    assert "Final runs: 16 runs into results: 8 finished, 8 to do" in said


def test_a_trial_that_failed_has_no_place_and_its_method_goes_on(own, capsys):
    (own / "own_rule.py").write_text(FRAGILE)
    (own / "study" / "small.yaml").write_text(
        STUDY.replace("Smooth", "Fragile").replace("[0.5, 2]", "[0, 1]")
    )
    assert study("optim.clipping_type=own_rule:Fragile") == 1
    runs = table("runs")
    tune = runs.query("role == 'tune' and method == 'own_rule:Fragile'")
    assert set(tune["status"]) == {"done", "failed"}
    final = runs.query("role == 'final' and method == 'own_rule:Fragile'")
    assert set(final["trial"]) == {tune[tune["status"] == "done"].set_index("trial")["final"].idxmin()}
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{(tune['status'] == 'failed').sum()} of 8 tuning runs failed (own_rule:Fragile)." in message


def test_nothing_is_chosen_where_a_method_has_no_complete_trial(own, capsys):
    assert study("optim.clipping_type=own_rule:Broken", "study.trials=1") == 1
    runs = table("runs")
    assert set(runs["role"]) == {"tune"}
    assert runs.set_index("method")["status"].to_dict() == {"none": "done", "own_rule:Broken": "failed"}
    assert (
        "1 of 2 tuning runs failed (own_rule:Broken); without a complete trial of each method nothing"
        in capsys.readouterr().err
    )


def plans(*words):
    [arena] = arenas([*WORDS[2:], *words], Path("."))
    return arena, arena.tuning(), arena.finals(dict.fromkeys(arena.study.methods, 0))


def test_tuning_final_and_other_runs_are_never_the_same_run(own):
    _, tuning, finals = plans("study.final_seeds=[0]", "study.tuning_seeds=[1]")
    alone = make_plan(["threads=1", *WORDS[2:-1], "optim.clipping_type=norm", "seed=0"], Path("."))
    default = next(
        plan for plan in finals if plan.settings.tag.role == "default" and plan.settings.tag.method == "norm"
    )
    assert default.settings.optim == alone.settings.optim
    ids = [plan.run for plan in (*tuning, *finals, alone)]
    assert len(set(ids)) == len(ids)
    assert not {plan.settings.seed for plan in tuning} & {plan.settings.seed for plan in finals}


def test_a_run_of_no_study_has_the_id_that_it_had_before_there_were_studies():
    """Ids in folders of results that exist; the settings behind them have not changed since."""
    assert make_plan(["task=cola", "optim=sgd", "optim.clipping_type=none", "seed=0"]).run == "r1afd204ea96a"
    assert (
        make_plan(["task=reddit", "optim=adamw", "optim.clipping_type=auto", "seed=1"]).run == "r84d88df68ad7"
    )


def test_the_length_is_a_share_of_the_tasks_steps_unless_steps_are_given():
    [cola] = arenas(["task=cola", "study=quick", "warmup=100"])
    assert (cola.plan.settings.steps, cola.plan.settings.eval_every, cola.plan.settings.warmup) == (
        375,
        38,
        100,
    )
    [cola] = arenas(["task=cola", "study=quick", "steps=50"])
    assert (cola.plan.settings.steps, cola.plan.settings.eval_every) == (50, 150)


def test_the_learning_rate_is_drawn_around_what_the_words_the_task_or_the_optimizer_say(own):
    assert arenas(["task=cola", "optim=sgd"])[0].lr == 0.02
    assert arenas(["task=cola", "optim=sgd", "optim.lr=0.5"])[0].lr == 0.5
    assert arenas(["task=line"], Path("."))[0].lr == 1e-3  # torch's own


def test_several_tasks_and_optimizers_are_an_arena_each():
    labels = [arena.label for arena in arenas(["task=cola,voc", "optim=sgd,adamw"])]
    assert labels == [f"{task} (mini) · {optim}" for task in ("cola", "voc") for optim in ("sgd", "adamw")]


@pytest.mark.parametrize("name", ["quick", "standard", "full"])
def test_every_study_of_ours_is_sound(name):
    for arena in arenas(["task=cola,imagenet,voc,reddit", f"study={name}"]):
        seeds = arena.study.tuning_seeds, arena.study.final_seeds
        assert not set(seeds[0]) & set(seeds[1])
        assert arena.study.methods[0] == "none"
        assert all("lr" in axes for axes in arena.spaces.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["study=quik"],
            r"Unknown study 'quik'\. Did you mean 'quick'\? Known: full, quick, small, standard\. .*DIR/study/quik.yaml",
        ),
        (["study=quick,full"], "study=quick,full has several values"),
        (["study.trals=3"], r"unknown key 'trals'\. Did you mean 'trials'"),
        (["study.trials=0"], "trials must be a whole number of at least 1, got 0"),
        (["study.trials=2.5"], "got 2.5"),
        (["study.length=0"], "length must be a number above 0"),
        (["study.methods=norm"], "methods must be a list"),
        (["study.final_seeds=[]"], r"final_seeds must be a list of different seeds, got \[\]"),
        (["study.final_seeds=[1,1]"], "list of different seeds"),
        (["study.final_seeds=[1,-1]"], "whole number of at least 0, got -1"),
        (["study.final_seeds=[1,100]"], "the final seeds must be fresh, but 100 is a tuning seed too"),
        (["optim.clipping_type=nrm"], r"Unknown clipping_type 'nrm'\. Did you mean 'norm'"),
        (["optim.clipping_type=own_rule:Smoth"], "'Smoth' in own_rule must be a dataclass"),
        (
            ["study.space.cliping_level={log:[1,2]}"],
            r"space\.cliping_level: there is no such number\. Did you mean 'clipping_level'\? Known: beta, ",
        ),
        (
            ["study.own={norm:{betta:{log:[1,2]}}}"],
            r"own\.norm\.betta: there is no such number\..*Known: clipping_level, lr\.",
        ),
        (["study.own={auto:3}"], r"own\.auto must be a mapping of numbers to their spaces, got 3"),
        (["study.own=3"], "own must be a mapping of methods"),
        (["study.own={nrm:{beta:{log:[1,2]}}}"], r"Unknown clipping_type 'nrm'\. Did you mean 'norm'"),
        (["study.space.lr={log:[2,1]}"], r"Study 'small': space\.lr: .*the lower first"),
        (["study.space={clipping_level:{log:[1,2]}}"], "space must be a mapping with lr in it"),
        (["seed=3"], "seed=3: a study sets this itself"),
        (["tag.role=tune"], "a study sets this itself"),
        (
            ["optim.clipping_level=2"],
            r"a study draws clipping_level itself, from study\.space\.clipping_level",
        ),
        (["steps=3,4"], "steps=3,4 has several values: a study takes several of task, optim"),
        (["task=colla"], "Did you mean 'cola'"),
        (["optim.lrr=1"], "Unknown key 'optim.lrr'"),
    ],
)
def test_a_mistake_gets_one_clear_message(own, words, message):
    with pytest.raises(UserError, match=message):
        plans(*words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("methods: [none", r"broken\.yaml cannot be read"),
        ("- 1", r"broken\.yaml must say methods, trials"),
        ("trials: 3", r"broken\.yaml must say methods, tuning_seeds"),
    ],
)
def test_a_broken_file_is_named(own, content, message):
    (own / "study" / "broken.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        plans("study=broken")


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_run_refuses_what_only_a_study_sets(words, message):
    with pytest.raises(UserError, match=message):
        make_plan(words)


def test_the_command_offers_its_own_keys(own, capsys):
    line = "clipbench study "
    assert main(["complete", "fish", str(len(line)), line]) == 0
    offered = {answer.split("\t")[0] for answer in capsys.readouterr().out.splitlines()}
    assert {
        "study=",
        "study.trials=",
        "study.final_seeds=",
        "task=",
        "optim.clipping_type=",
        "hydra/launcher=",
    } <= offered
    assert not {"seed=", "optim.clipping_level=", "+experiment="} & offered
    line = "clipbench study --config-dir . study="
    assert main(["complete", "fish", str(len(line)), line]) == 0
    assert {answer.split("\t")[0] for answer in capsys.readouterr().out.splitlines()} == {
        f"study={n}" for n in ("quick", "standard", "full", "small")
    }

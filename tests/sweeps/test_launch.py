"""A sweep handed to another engine writes the rows that it writes here; what is wrong with the engine is one
message.
"""

import os
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.folder import LaunchFolder
from clipbench.record.tables import statuses
from clipbench.runs.events import Ended, Refused
from clipbench.runs.lockstep import train_group
from clipbench.sweeps.engine import EXTRAS, make_launcher
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.job import Job, JobReport, stop_requests
from clipbench.sweeps.launch import launch
from clipbench.sweeps.scheduler import make_runs

CONFIG_DIR = Path("my own")
OVERRIDES = ["task=line", "steps=60", "eval_every=20", "seed=choice(0)"]
SWEPT = "optim.clipping_type=linear_rand_norm,auto,rules:Broken"

STOPS = """
from dataclasses import dataclass, replace
from pathlib import Path
import torch
from clipbench.optim import Rule

@dataclass(frozen=True)
class Stop(Rule):
    '''α = 1, and the request to stop in the tenth step.'''
    def init(self, params):
        return {"seen": torch.zeros(())}

    def __call__(self, grads, params, state, rng):
        if state["seen"] == 9:
            Path("jobs/stop").touch()
        return torch.ones(()), {"seen": state["seen"] + 1}

@dataclass(frozen=True)
class Broken(Rule):
    '''raises'''
    def __call__(self, grads, params, state, rng):
        raise RuntimeError("broken")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my own" / "task").mkdir(parents=True)
    (tmp_path / "my own" / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nfail_at: -1\nexplode_at: -1\n"
    )
    (tmp_path / "my own" / "own_line.py").write_text(
        Path(__file__).parents[1].joinpath("tiny.py").read_text()
    )
    (tmp_path / "my own" / "rules.py").write_text(STOPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_line", "rules"):
        sys.modules.pop(name, None)


def plans(*overrides):
    return make_plans([*OVERRIDES, *overrides], CONFIG_DIR)


def rows(table, folder):
    return tables.read(Path(folder), table).drop(columns="seconds")


def assert_same_tables(one, other):
    for table in ("steps", "evals"):
        left, right = rows(table, one), rows(table, other)
        assert len(left)
        pd.testing.assert_frame_equal(left, right, check_exact=True)


@pytest.mark.slow
@pytest.mark.ci
def test_joblib_writes_what_a_sweep_here_writes_and_a_failure_is_recorded(own):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    heard = []

    outcome = launch(plans(SWEPT, "results=elsewhere"), joblib, CONFIG_DIR, sink=heard.append)
    assert list(outcome.statuses.values()) == ["done", "done", "failed"]
    assert [plan.settings.optim.clipping_type for plan in outcome.failed] == ["rules:Broken"]
    assert outcome.launcher_error == ""
    assert {type(event) for event in heard} == {Ended}
    assert sorted(event.run for event in heard) == sorted(outcome.statuses)
    ends = [(event.row["status"], event.row["steps"]) for event in heard]
    assert sorted(ends) == [("done", 60), ("done", 60), ("failed", 0)]
    assert make_runs(plans(SWEPT, "results=here")).statuses == outcome.statuses
    assert_same_tables("here", "elsewhere")
    assert [path.name for path in Path("elsewhere/.work").iterdir()] == [outcome.failed[0].run]


@pytest.mark.slow
@pytest.mark.ci
def test_submitit_runs_a_job_each(own):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    submitit = ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"]
    types = "optim.clipping_type=none,auto"
    assert launch(plans(types, "results=elsewhere"), submitit, CONFIG_DIR).is_complete
    assert make_runs(plans(types, "results=here")).is_complete
    assert_same_tables("here", "elsewhere")


@dataclass
class Returned:
    return_value: JobReport


class Engine:
    """Another engine, in this process: calls the jobs one after the other. `before` sees each run first."""

    def __init__(self, folder, before=lambda run: None):
        self.job, self.folder, self.before = Job(os.getcwd(), folder, CONFIG_DIR), folder, before

    def launch(self, jobs, initial_job_idx):
        found = []
        for [override] in jobs:
            run = override.removeprefix("+run=")
            self.before(run)
            found.append(Returned(self.job({"run": run})))
        return found


@pytest.fixture
def engine(monkeypatch):
    """A function that makes the next launch one by an `Engine`."""

    def choose(**options):
        def make(overrides, config_dir, folder):
            return Engine(folder, **options)

        monkeypatch.setattr("clipbench.sweeps.launch.make_launcher", make)

    return choose


def test_what_the_user_must_mend_is_said_once_and_the_other_jobs_go_on(own, engine):
    engine()
    (own / "own_lost.py").write_text(
        "from own_line import Line\nfrom clipbench.errors import UserError\n"
        "class Lost(Line):\n    def train_batches(self, rng):\n        raise UserError('No data.')\n"
    )
    (own / "my own" / "task" / "lost.yaml").write_text("name: lost\n_target_: own_lost.Lost\nbatch_size: 8\n")
    asked = plans("task=lost,line", "optim.clipping_type=none,norm", "steps=20")
    heard = []
    outcome = launch(asked, ["hydra/launcher=here"], CONFIG_DIR, sink=heard.append)
    assert {event.run: event.row["status"] for event in heard if isinstance(event, Ended)} == {
        plan.run: "done" for plan in outcome.finished
    }
    refused = [event for event in heard if isinstance(event, Refused)]
    assert refused == [Refused(plan.run, "No data.") for plan in outcome.not_made]
    assert len(heard) == 4
    assert outcome.mistakes == ("No data.",)
    assert Counter(outcome.statuses.values()) == {"done": 2, "not made": 2}
    assert {plan.settings.task.name for plan in outcome.not_made} == {"lost"}
    assert set(outcome.notes.values()) == {"No data."}
    assert not Path("results/.work/").is_dir() or not list(Path("results/.work").glob("launch-*"))


def test_a_sink_that_raises_costs_a_launch_nothing(own, engine, caplog):
    engine()

    def sink(event):
        raise OSError("the terminal is gone")

    asked = plans("optim.clipping_type=none,norm", "steps=20")
    assert launch(asked, ["hydra/launcher=here"], CONFIG_DIR, sink=sink).is_complete
    assert caplog.text.count("The display has failed") == 1


def test_each_job_that_ends_is_a_line(own, engine, capsys):
    engine()
    words = [*OVERRIDES, "optim.clipping_type=none,norm", "steps=20", "hydra/launcher=joblib"]
    assert main(["sweep", "--config-dir", str(CONFIG_DIR), *words]) == 0
    printed = capsys.readouterr().err
    said = re.findall(r"^(\d)/2  line \(mini\) · .*  mse .* on test, done after 20", printed, re.M)
    assert said == ["1", "2"], printed


def test_an_interrupt_reaches_the_jobs_and_the_same_launch_resumes(own, engine):
    asked = plans("optim.clipping_type=none,norm", "steps=20")
    begun = []
    engine(before=begun.append)
    outcome = launch(asked, ["hydra/launcher=here"], CONFIG_DIR, interrupted=lambda: bool(begun))
    assert outcome.interrupted
    assert outcome.launcher_error == ""
    assert not list(Path("results").glob(".work/launch-*"))
    engine()
    assert launch(asked, ["hydra/launcher=here"], CONFIG_DIR).is_complete


def test_a_launcher_that_fails_half_way_leaves_what_was_printed_and_says_which_runs_lack(own, engine):
    asked = plans("optim.clipping_type=none,norm", "steps=20")

    def before(run):
        if run == asked[1].run:
            [folder] = Path("results/.work").glob("launch-*")
            (folder / "output").mkdir()
            raise RuntimeError("the queue is full")

    engine(before=before)
    outcome = launch(asked, ["hydra/launcher=here"], CONFIG_DIR)
    assert outcome.launcher_error == "The launcher failed. RuntimeError: the queue is full"
    assert outcome.finished == asked[:1]
    assert outcome.not_made == asked[1:]
    assert Path(outcome.left_behind, "output").is_dir()


def test_a_launcher_that_never_started_a_job_is_an_error(own, engine):
    def before(run):
        raise RuntimeError("no such partition")

    engine(before=before)
    with pytest.raises(UserError, match=r"^hydra/launcher=here: The launcher failed.*no such partition"):
        launch(plans("optim.clipping_type=none,norm"), ["hydra/launcher=here"], CONFIG_DIR)
    assert not list(Path("results").glob(".work/*"))


def job(own, plan, name):
    folder = LaunchFolder(own / name)
    folder.write_plans({plan.run: {"overrides": plan.overrides, "until": plan.until}})
    return folder, Job(str(own), folder.path, CONFIG_DIR), {"run": plan.run}


def test_a_job_stops_with_a_checkpoint_when_the_launch_asks_for_it_and_resumes(own, monkeypatch):
    monkeypatch.setattr("clipbench.sweeps.job.CHECK_EVERY", 0.0)
    (plan,) = plans("optim.clipping_type=rules:Stop")
    folder, make, asked = job(own, plan, "jobs")
    assert make(asked) == JobReport("stopped")
    assert [path.name for path in plan.run_folder.path.glob("checkpoint-*.pt")] == ["checkpoint-000000010.pt"]
    assert make(asked) == JobReport("stopped")  # still
    (folder.path / "stop").unlink()
    assert make(asked) == JobReport("ended", "done")
    assert make(asked) == JobReport("elsewhere", "done")
    assert statuses(Path("results")) == {plan.run: "done"}


def test_a_launched_trial_stops_at_its_rung_and_goes_on_when_it_is_asked_for_again(own, engine):
    engine()
    tag = ("tag.study=s", "tag.role=tune", "tag.method=norm", "tag.trial=0", "tag.repetition=0")
    (plan,) = plans("optim.clipping_type=norm", *tag)
    to_rung = replace(plan, until=20)
    assert launch([to_rung], ["hydra/launcher=here"], CONFIG_DIR).statuses == {plan.run: "stopped"}
    assert plan.run_folder.checkpoint_step() == 20
    assert launch([to_rung], ["hydra/launcher=here"], CONFIG_DIR).is_complete  # nothing is to do
    assert launch([plan], ["hydra/launcher=here"], CONFIG_DIR).statuses == {plan.run: "done"}
    assert not plan.run_folder.exists


def test_a_trial_whose_job_is_lost_after_its_rung_has_not_ended(own, engine):
    engine()
    tag = ("tag.study=s", "tag.role=tune", "tag.method=norm", "tag.trial=0", "tag.repetition=0")
    (plan,) = plans("optim.clipping_type=norm", *tag)
    launch([replace(plan, until=20)], ["hydra/launcher=here"], CONFIG_DIR)

    def before(run):
        raise RuntimeError("the queue is full")

    engine(before=before)
    outcome = launch([plan], ["hydra/launcher=here"], CONFIG_DIR)
    assert (outcome.finished, outcome.not_made) == ([], [plan])


def test_a_job_whose_source_changed_says_so(own):
    (plan,) = plans()[:1]
    _, make, asked = job(own, plan, "jobs")
    with open("my own/own_line.py", "a") as file:
        file.write("# changed\n")
    report = make(asked)
    assert report.kind == "mistake"
    assert "source or data changed" in report.text


def test_a_job_that_is_lost_says_why(own):
    (plan,) = plans("optim.clipping_type=none")
    _, make, _ = job(own, plan, "jobs")
    assert make({"run": "rother"}) == JobReport("lost", "KeyError: 'rother'")


def test_a_signal_stops_a_job_and_the_engine_hears_it_too(tmp_path):
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        with stop_requests(LaunchFolder(tmp_path / "none")) as stopped:
            assert not stopped()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stopped()
            assert heard == []
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_stops_a_job_unless_it_is_ignored(tmp_path, ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with stop_requests(LaunchFolder(tmp_path / "none")) as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopped() is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra/launcher=joblip"], "Unknown hydra/launcher 'joblip'. Did you mean 'joblib'?"),
        (["hydra/launcher=joblib", "hydra/launcher=ray"], "handed to one launcher"),
        (["hydra.launcher.n_jobs=2"], "handed to one launcher"),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_job=2"],
            "Unknown key 'hydra.launcher.n_job'. Did you mean 'n_jobs'?",
        ),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=many"], "n_jobs"),
    ],
)
def test_a_launcher_that_is_none_is_one_message(tmp_path, overrides, message):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(UserError, match="(?s)" + message.replace("?", r"\?")):
        make_launcher(overrides, None, tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


def test_a_launcher_that_is_not_installed_says_what_to_install(tmp_path):
    missing = [
        name for name in EXTRAS if not find_spec(f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher")
    ]
    for name in missing:
        with pytest.raises(UserError, match=rf"pip install 'clipbench\[{EXTRAS[name]}\]'"):
            make_launcher([f"hydra/launcher={name}"], None, tmp_path / "jobs")


def test_one_run_takes_no_launcher(own, capsys):
    assert main(["run", "--config-dir", "my own", "task=line", "hydra/launcher=joblib"]) == 2
    assert "a launcher makes a sweep" in capsys.readouterr().err


def test_the_job_makes_nothing_that_another_process_makes(own):
    (plan,) = plans("optim.clipping_type=none")
    _, make, asked = job(own, plan, "jobs")
    first = train_group([plan])
    next(first)
    assert make(asked).kind == "elsewhere"
    first.close()
    assert make(asked) == JobReport("ended", "done")

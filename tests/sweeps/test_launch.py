"""A sweep handed to another engine writes the rows that it writes here; what is wrong with the engine is one message."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.tables import statuses
from clipbench.runs.lockstep import train_group
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.job import PLANS, STOP, Job, told_to_stop
from clipbench.sweeps.launch import EXTRAS, make_launcher

WORDS = ["--config-dir", "my own", "task=line", "steps=60", "eval_every=20", "seed=0"]
SWEPT = ["optim.clipping_type=none,auto,linear_rand_norm"]

STOPS = """
from dataclasses import dataclass
from pathlib import Path
import torch
from clipbench.optim import Rule

@dataclass(frozen=True)
class Stop(Rule):
    '''α = 1, and the word to stop in the tenth step.'''
    def init(self, params):
        return {"seen": torch.zeros(())}

    def __call__(self, grads, params, state, rng):
        if state["seen"] == 9:
            Path("desk/stop").touch()
        return torch.ones(()), {"seen": state["seen"] + 1}
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


def launch(name, *words):
    command = [sys.executable, "-m", "clipbench", "sweep", f"hydra/launcher={name}", *WORDS, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def rows(table, folder):
    return tables.read(Path(folder), table).drop(columns="seconds")


def assert_same_tables(one, other):
    for table in ("steps", "evals"):
        left, right = rows(table, one), rows(table, other)
        assert len(left)
        pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_joblib_writes_what_a_sweep_here_writes_and_a_failure_is_recorded(own):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = launch("joblib", "hydra.launcher.n_jobs=2", *SWEPT, "results=elsewhere")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(", done after 60 steps") == 3
    assert main(["sweep", *WORDS, *SWEPT, "results=here"]) == 0
    assert_same_tables("here", "elsewhere")
    assert not Path("elsewhere/.work").exists()
    failed = launch("joblib", "hydra.launcher.n_jobs=1", "task.fail_at=-1,5", "results=elsewhere")
    assert failed.returncode == 1, failed.stderr
    assert "failed: clipbench run --config-dir 'my own' threads=1 task=line" in failed.stderr
    assert "task.fail_at=5" in failed.stderr.splitlines()[-1]


def test_submitit_runs_a_job_each(own):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = launch(
        "submitit_local",
        "hydra.launcher.cpus_per_task=1",
        "optim.clipping_type=none,auto",
        "results=elsewhere",
    )
    assert done.returncode == 0, done.stderr
    assert main(["sweep", *WORDS, "optim.clipping_type=none,auto", "results=here"]) == 0
    assert_same_tables("here", "elsewhere")


def job(own, plan, desk):
    (desk := own / desk).mkdir()
    (desk / PLANS).write_text(json.dumps({plan.run: plan.overrides}))
    return Job(str(own), desk, Path("my own")), {"run": plan.run}


def test_a_job_stops_with_a_checkpoint_at_the_launchers_word_and_goes_on(own, monkeypatch):
    monkeypatch.setattr("clipbench.sweeps.job.LOOK", 0.0)
    words = ["task=line", "steps=60", "eval_every=20", "seed=choice(0)", "optim.clipping_type=rules:Stop"]
    (plan,) = make_plans(words, Path("my own"))
    make, asked = job(own, plan, "desk")
    assert make(asked) == ("stopped", "")
    assert [path.name for path in plan.run_folder.path.glob("checkpoint-*.pt")] == ["checkpoint-000000010.pt"]
    assert make(asked) == ("stopped", "")  # still
    (own / "desk" / STOP).unlink()
    assert make(asked) == ("ended", "done")
    assert make(asked) == ("elsewhere", "finished")
    assert statuses(Path("results")) == {plan.run: "done"}


def test_a_job_whose_source_changed_says_so(own):
    (plan,) = make_plans(["task=line", "steps=60", "seed=choice(0)"], Path("my own"))
    make, asked = job(own, plan, "desk")
    with open("my own/own_line.py", "a") as file:
        file.write("# changed\n")
    kind, text = make(asked)
    assert kind == "mistake"
    assert "source or data changed" in text


def test_a_signal_stops_a_job_and_the_engine_hears_it_too():
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        with told_to_stop(Path("no such file")) as stopped:
            assert not stopped()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stopped()
            assert heard == []
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_a_launcher_that_is_none_is_one_message(tmp_path, words, message):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(UserError, match="(?s)" + message.replace("?", r"\?")):
        make_launcher(words, None, tmp_path / "desk")
    assert not (tmp_path / "desk").exists()


def test_a_launcher_that_is_not_installed_says_what_to_install(tmp_path):
    missing = [
        name for name in EXTRAS if not find_spec(f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher")
    ]
    for name in missing:
        with pytest.raises(UserError, match=rf"pip install 'clipbench\[{EXTRAS[name]}\]'"):
            make_launcher([f"hydra/launcher={name}"], None, tmp_path / "desk")


def test_one_run_takes_no_launcher(own, capsys):
    assert main(["run", *WORDS, "hydra/launcher=joblib"]) == 2
    assert "a launcher makes a sweep" in capsys.readouterr().err


def test_the_job_makes_nothing_that_another_process_makes(own):
    (plan,) = make_plans(["task=line", "steps=60", "eval_every=20", "seed=choice(0)"], Path("my own"))
    make, asked = job(own, plan, "desk")
    first = train_group([plan])
    next(first)
    assert make(asked)[0] == "elsewhere"
    first.close()
    assert make(asked) == ("ended", "done")

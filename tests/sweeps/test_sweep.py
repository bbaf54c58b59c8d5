"""Sweeps in worker processes: what a worker's death costs, what two sweeps of one folder do, how a sweep is stopped and goes on."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from clipbench.cli.main import main
from clipbench.record import tables
from clipbench.record.lease import Lease
from clipbench.sweeps.grid import make_plans, points
from clipbench.sweeps.workers import slots

OWN = Path(__file__).parents[1].joinpath("tiny.py")
DEADLY = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
import torch
from clipbench.optim import Rule

@dataclass(frozen=True)
class Deadly(Rule):
    """α = 1, and death at step `at`: every time, or `once`."""
    how: str = "kill"
    at: int = 30
    once: bool = False

    def init(self, params):
        return {"seen": torch.zeros(())}

    def __call__(self, grads, params, state, rng):
        mark = Path("died")
        if state["seen"] == self.at and not (self.once and mark.exists()):
            mark.touch()
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            import ctypes
            ctypes.string_at(0)
        return torch.ones(()), {"seen": state["seen"] + 1}

@dataclass(frozen=True)
class Once(Deadly):
    once: bool = True

@dataclass(frozen=True)
class Slow(Rule):
    """α = 1, after a while."""
    def __call__(self, grads, params, state, rng):
        time.sleep(0.01)
        return torch.ones(()), state
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (tmp_path / "own_line.py").write_text(OWN.read_text())
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "experiment").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_line", "deadly"):
        sys.modules.pop(name, None)


WORDS = ["--config-dir", ".", "task=line", "steps=60", "eval_every=20", "checkpoint_every=10"]


def sweep(*words):
    return main(["sweep", *WORDS, *words])


def start(*words, **options):
    command = [sys.executable, "-m", "clipbench", "sweep", *WORDS, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def table(name, folder="results"):
    return pd.read_parquet(Path(folder) / name)


def assert_same_tables(one, other):
    for name in ("steps", "evals"):
        parts = [
            table(name, folder).drop(columns="seconds").sort_values(["run", "step"], kind="stable")
            for folder in (one, other)
        ]
        pd.testing.assert_frame_equal(*(part.reset_index(drop=True) for part in parts), check_exact=True)


def test_a_segfault_costs_its_own_run_only_and_is_recorded_with_its_traceback(own, capsys):
    assert sweep("optim.clipping_type=none,deadly:Deadly,norm,auto", "sweep.workers_per_device=1") == 1
    runs = table("runs").set_index("clipping_type")
    assert runs["status"].to_dict() == {
        "none": "done",
        "norm": "done",
        "auto": "done",
        "deadly:Deadly": "failed",
    }
    assert "SIGKILL" in runs["error"]["deadly:Deadly"]
    assert runs["lockstep"]["none"] == 1  # tried again by itself
    error = capsys.readouterr().err
    assert "failed: clipbench run --config-dir . threads=1 task=line" in error
    assert "optim.clipping_type=deadly:Deadly" in error.splitlines()[-1]
    assert set(table("steps").groupby("run").size()) == {60, 30}


def test_the_python_line_that_crashed_is_in_the_record(own):
    words = ("optim.clipping_type=deadly:Deadly,deadly:Deadly", "optim.clip.how=crash")
    assert sweep(*words) == 1
    assert re.search(r"SIGSEGV[\s\S]*deadly\.py", table("runs")["error"][0])


def test_a_worker_that_is_killed_once_costs_nothing(own):
    assert sweep("optim.clipping_type=none,deadly:Once", "results=once") == 0
    assert set(table("runs", "once")["status"]) == {"done"}
    assert set(table("steps", "once").groupby("run").size()) == {60}
    assert not Path("once/.work").exists()


def test_a_run_whose_data_cannot_be_had_does_not_stop_the_others(own, capsys):
    assert sweep("task=line", "sweep.lockstep=false", "optim.clipping_type=none,norm") == 0
    (own / "task" / "lost.yaml").write_text("name: lost\n_target_: own_lost.Lost\nbatch_size: 8\n")
    (own / "own_lost.py").write_text(
        "from own_line import Line\nfrom clipbench.errors import UserError\n"
        "class Lost(Line):\n    def train_batches(self, rng):\n        raise UserError('There are no data in the cellar.')\n"
    )
    code = main(["sweep", "--config-dir", ".", "task=lost,line", "steps=20", "eval_every=10", "results=both"])
    assert code == 2
    assert table("runs", "both")["task"].tolist() == ["line"]
    error = capsys.readouterr().err
    assert error.count("There are no data in the cellar.") == 1
    assert "1 of 2 runs were not made" in error
    assert "Traceback" not in error


def forks(process: subprocess.Popen) -> bool:
    """Whether its fork server was started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return any(b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_while_processes_are_being_started_is_heard_by_the_sweep_alone(own):
    process = start("optim.clipping_type=none,norm", "steps=100000", "results=early", start_new_session=True)
    while not forks(process):
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.2)  # it imports for seconds
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "the same command goes on from there" in error
    assert "Traceback" not in error, error


def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(own):
    words = ("optim.clipping_type=none,deadly:Slow", "seed=0,1", "steps=600", "checkpoint_every=1h")
    process = start(*words, "results=cut")
    deadline = time.time() + 120
    while not list(Path("cut/.work").glob("*/lease.*")) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Nothing is lost: the same command goes on from there" in error
    assert "Traceback" not in error
    assert list(Path("cut/.work").glob("*/checkpoint-*.pt"))
    assert not list(Path("cut/.work").glob("*/lease.*"))
    assert sweep(*words, "results=cut") == 0
    assert sweep(*words, "results=whole") == 0
    assert_same_tables("cut", "whole")
    assert not Path("cut/.work").exists()


def test_when_the_sweep_is_killed_its_workers_keep_what_they_have_and_leave(own):
    words = ("optim.clipping_type=none,deadly:Slow", "steps=1000", "checkpoint_every=1h", "results=cut")
    process = start(*words)
    deadline = time.time() + 120
    while not list(Path("cut/.work").glob("*/lease.*")) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.kill()
    process.communicate()
    deadline = time.time() + 60
    while list(Path("cut/.work").glob("*/lease.*")) and time.time() < deadline:
        time.sleep(0.1)
    assert not list(Path("cut/.work").glob("*/lease.*"))
    assert list(Path("cut/.work").glob("*/checkpoint-*.pt"))


def test_a_run_that_another_process_makes_is_left_to_it(own):
    plans = make_plans(["task=line", "steps=60", "eval_every=20", "threads=1", "results=results"], own)[:2]
    words = ["optim.clipping_type=none", "seed=0,1"]
    lease = Lease(plans[0].work.folder)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert lease.acquire() is None
        import json

        from clipbench.record.lease import _machine, _started

        lease.path.write_text(
            json.dumps(
                {"host": "here", "machine": _machine(), "pid": other.pid, "started": _started(other.pid)}
            )
        )
        threading.Timer(12, other.kill).start()
        threading.Timer(12.5, other.wait).start()
        begun = time.time()
        assert sweep(*words) == 0
        assert time.time() - begun > 8  # it waited for the other one, and then made the run
    finally:
        other.kill()
        other.wait()
    assert table("runs")["status"].tolist() == ["done", "done"]


def test_run_says_who_else_makes_it(own, capsys):
    plan = make_plans(["task=line", "steps=60", "optim.clipping_type=none,none"], own)[0]
    lease = Lease(plan.run_folder.path)
    assert lease.acquire() is None
    assert main(["run", "--config-dir", ".", "task=line", "steps=60", "optim.clipping_type=none"]) == 2
    assert f"This run is being made by process {os.getpid()} on" in capsys.readouterr().err


def test_arms_are_a_list_of_override_lists(own):
    (own / "experiment" / "pair.yaml").write_text(
        "all: [task=line, steps=5, optim=sgd]\n"
        "arms:\n  - [optim.clipping_type=norm, 'optim.clipping_level=0.5,1', optim.lr=0.01]\n  - [optim=adam, steps=7]\n"
    )
    found = points(["+experiment=pair", "seed=range(2)", "steps=9"], own)
    assert len(found) == 6
    assert [set(point) for point in found[:2]] == [
        {
            "threads=1",
            "task=line",
            "steps=9",
            "optim=sgd",
            "optim.clipping_type=norm",
            "optim.clipping_level=0.5",
            "optim.lr=0.01",
            seed,
        }
        for seed in ("seed=0", "seed=1")
    ]
    assert set(found[-1]) == {"threads=1", "task=line", "steps=9", "optim=adam", "seed=1"}
    assert [plan.settings.optim.name for plan in make_plans(["+experiment=pair", "threads=2"], own)] == [
        "sgd",
        "sgd",
        "adam",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Unknown experiment 'pair'"),
        ("arms: {a: b}", "It takes `arms:`, a list of lists"),
        ("arms:\n- [1]", "It takes `arms:`, a list of lists"),
        ("runs: []", "It takes `arms:`, a list of lists"),
        ("arms: [", "is no YAML"),
        ("arms:\n- [optim.lrr=1]", "Unknown key 'optim.lrr'"),
    ],
)
def test_an_experiment_that_is_none_is_one_message(own, capsys, content, message):
    if content:
        (own / "experiment" / "pair.yaml").write_text(content)
    assert main(["sweep", "--config-dir", ".", "+experiment=pair"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sweep.lockstep=0", "sweep.lockstep must be true, false or"),
        ("sweep.workers_per_device=0", "sweep.workers_per_device must be null or"),
        ("checkpoint_every=often", "checkpoint_every must be a time as 30s"),
        ("checkpoint_every=0", "checkpoint_every must be a time as 30s"),
        ("device=cpu,auto", "device must be the same for all runs of a sweep"),
    ],
)
def test_settings_of_the_sweep_are_checked(own, capsys, word, message):
    assert sweep("optim.clipping_type=none,norm", word) == 2
    assert message in capsys.readouterr().err


def test_cores_are_shared_out_among_cpu_slots():
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count()))
    found = slots("cpu", 1, None)
    assert len(found) == len(cores)
    if len(cores) > 1 and found[0].cores:
        assert set().union(*(slot.cores for slot in found)) == cores
        assert sum(len(slot.cores) for slot in found) == len(cores)
    assert len(slots("cpu", len(cores), None)) == 1
    assert [slot.name for slot in slots("cpu", 1, 3)] == ["cpu #1", "cpu #2", "cpu #3"]


def test_a_full_results_folder_is_read_once_a_run(own):
    """`statuses` reads the files of the sweep's runs, not the folder's thousands."""
    tables.write_rows(Path("results"), "runs", "rother", [{"status": "done"}])
    Path("results/runs/torn.parquet").write_text("torn")
    assert tables.statuses(Path("results"), ["rother", "rnone"]) == {"rother": "done"}


PUBLISHED = {  # {task: [(optimizer, lr, type, level, p)]}: torch-clip's figures
    "cola": [
        *(("sgd", 2e-3, "norm", level, None) for level in (0.5, 1, 2, 3)),
        ("adam", 5e-5, "none", None, None),
        ("sgd", 1e-3, "none", None, None),
    ],
    "imagenet": [
        ("sgd", 0.01, "linear_rand_auto", None, 0.25),
        ("sgd", 0.01, "quadratic_rand_auto", None, 0.75),
        ("sgd", 0.01, "linear_rand_norm", 2, None),
        ("sgd", 0.01, "quadratic_rand_norm", 2, None),
        ("adam", 1e-4, "none", None, None),
        ("sgd", 0.01, "none", None, None),
    ],
    "voc": [
        ("sgd", 0.05, "norm", 1, None),
        ("sgd", 0.05, "auto", None, 0.25),
        ("sgd", 0.05, "layer_wise", 1, None),
        ("sgd", 0.01, "none", None, None),
        ("adam", 1e-3, "none", None, None),
    ],
    "reddit": [
        *(
            ("sgd", None, name, level, None)
            for name, level in {"norm": 1, "layer_wise": 1, "coordinate_wise": 0.1}.items()
        ),
        ("sgd", None, "quadratic_rand_auto", None, 0.75),
        ("sgd", None, "none", None, None),
        ("adam", None, "none", None, None),
    ],
}
STEPS = {"cola": 220, "imagenet": 7000, "voc": 270, "reddit": 1500}  # about


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("task", PUBLISHED)
def test_torch_clips_arms_are_as_published(task, scale):
    found = []
    for plan in make_plans([f"+experiment=torchclip_{task}", f"scale={scale}", "seed=3"]):
        optim, rule, settings = plan.settings.optim, plan.rule, plan.settings
        lr = None if task == "reddit" else optim["lr"]  # was not published
        found.append(
            (
                optim["name"],
                lr,
                optim["clipping_type"],
                getattr(rule, "clipping_level", None),
                getattr(rule, "p_autoclip", None),
            )
        )
        assert optim["name"] != "sgd" or optim["momentum"] == 0.9
        assert "rand" not in optim["clipping_type"] or rule.beta == 0.85
        assert (settings.schedule, settings.warmup, settings.seed) == ("constant", 0, 3)
        assert (settings.steps == STEPS[task]) == (scale == "full")
        if task == "cola" and optim["name"] == "adam":
            assert optim["weight_decay"] == 5e-4
    assert found == PUBLISHED[task]


def test_an_experiment_has_several_seeds_and_both_scales():
    plans = make_plans(["+experiment=torchclip_voc", "scale=mini,full"])
    assert Counter((plan.settings.scale, plan.settings.seed) for plan in plans) == {
        (scale, seed): 5 for scale in ("mini", "full") for seed in range(5)
    }
    assert {plan.settings.steps for plan in plans if plan.settings.scale == "full"} == {270}

"""Sweeps in worker processes: what a worker's death costs, what two sweeps of one folder do, how a sweep is
stopped and resumes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from clipbench.api import make_run
from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.record.lease import Lease, _machine, _started
from clipbench.record.rows import StepRow
from clipbench.runs.events import Begun, Ended, MadeElsewhere, Progress, Refused, Resumed, Rows, last_rows
from clipbench.sweeps import scheduler
from clipbench.sweeps.grid import make_plans, points
from clipbench.sweeps.scheduler import make_runs, unfinished
from clipbench.sweeps.slots import slots

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
class Crash(Deadly):
    how: str = "crash"

@dataclass(frozen=True)
class Slow(Rule):
    """α = 1, after a while; the fifth step leaves a mark."""
    def init(self, params):
        return {"seen": torch.zeros(())}

    def __call__(self, grads, params, state, rng):
        time.sleep(0.01)
        if state["seen"] == 4:
            Path("stepping").touch()
        return torch.ones(()), {"seen": state["seen"] + 1}
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


OVERRIDES = ["task=line", "steps=60", "eval_every=20", "checkpoint_every=10"]


def sweep(*overrides, **how):
    return make_runs(make_plans([*OVERRIDES, *overrides], Path(".")), **how)


def command_line(*overrides):
    return [sys.executable, "-m", "clipbench", "sweep", "--config-dir", ".", *OVERRIDES, *overrides]


def start(*overrides, **options):
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command_line(*overrides), **piped, **options)


def wait_for(what, seconds=120):
    deadline = time.time() + seconds
    while not what():
        assert time.time() < deadline
        time.sleep(0.02)


def table(name, folder="results"):
    return pd.read_parquet(Path(folder) / name)


def assert_same_tables(one, other):
    for name in ("steps", "evals"):
        parts = []
        for folder in (one, other):
            rows = table(name, folder).drop(columns="seconds")
            parts.append(rows.sort_values(["run", "step"], kind="stable").reset_index(drop=True))
        pd.testing.assert_frame_equal(*parts, check_exact=True)


def test_a_death_costs_its_own_run_only_and_is_recorded_with_the_line_that_crashed(own):
    types = "optim.clipping_type=none,deadly:Deadly,deadly:Crash,norm"
    outcome = sweep(types, "seed=choice(0)", "sweep.workers_per_device=1")
    runs = table("runs").set_index("clipping_type")
    assert runs["status"].to_dict() == {
        "none": "done",
        "norm": "done",
        "deadly:Deadly": "failed",
        "deadly:Crash": "failed",
    }
    assert "SIGKILL" in runs["error"]["deadly:Deadly"]
    assert re.search(r"SIGSEGV[\s\S]*deadly\.py", runs["error"]["deadly:Crash"])
    assert runs["lockstep"]["none"] == 1  # tried again by itself
    assert set(table("steps").groupby("run").size()) == {60, 30}
    assert outcome.statuses == dict(zip(runs["run"], runs["status"], strict=True))
    assert not outcome.is_complete
    assert not outcome.interrupted
    assert outcome.not_made == []
    commands = [plan.command for plan in outcome.failed]
    assert all(text.startswith("clipbench run --config-dir . threads=1 task=line") for text in commands)
    assert [text.rpartition("deadly:")[2].split()[0] for text in commands] == ["Deadly", "Crash"]


def events_of(heard, run):
    return [event for event in heard if not isinstance(event, Progress) and event.run == run]


def without_rows(events):
    return [event for event in events if not isinstance(event, Rows)]


def test_a_worker_that_is_killed_once_costs_nothing(own):
    heard = []
    outcome = sweep(
        "optim.clipping_type=none,deadly:Once", "seed=choice(0)", "results=once", sink=heard.append
    )
    assert outcome.is_complete
    untouched, killed = (events_of(heard, plan.run) for plan in outcome.plans)
    assert without_rows(untouched)[-1].row["status"] == "done"
    assert without_rows(killed)[:2] == [Begun(outcome.plans[1].run), Resumed(outcome.plans[1].run, 30)]
    assert without_rows(killed)[2].row["status"] == "done"
    assert last_rows(killed[-2].rows)[0].step == 60
    assert Progress in map(type, heard)
    assert set(table("runs", "once")["status"]) == {"done"}
    assert set(table("steps", "once").groupby("run").size()) == {60}
    assert not Path("once/.work").exists()
    again = sweep("optim.clipping_type=none,deadly:Once", "seed=choice(0)", "results=once")
    assert again == outcome


def test_a_run_whose_data_cannot_be_had_does_not_stop_the_others(own):
    (own / "task" / "lost.yaml").write_text("name: lost\n_target_: own_lost.Lost\nbatch_size: 8\n")
    (own / "own_lost.py").write_text(
        "from own_line import Line\nfrom clipbench.errors import UserError\n"
        "class Lost(Line):\n    def train_batches(self, rng):\n"
        "        raise UserError('There are no data in the cellar.')\n"
    )
    plans, heard = make_plans(["task=lost,line", "steps=20", "eval_every=10"], Path(".")), []
    outcome = make_runs(plans, sink=heard.append)
    lost = plans[0].run
    assert events_of(heard, lost) == [Begun(lost), Refused(lost, "There are no data in the cellar.")]
    begun, rows, ended = events_of(heard, plans[1].run)
    assert begun == Begun(plans[1].run)
    assert isinstance(rows.rows[0], StepRow)
    assert {row.step for row in rows.rows} == {20}
    assert {row.split for row in rows.rows[1:]} == {"train", "val", "test"}
    assert ended == Ended(plans[1].run, ended.row)
    assert ended.row["status"] == "done"
    last = [event for event in heard if isinstance(event, Progress)][-1]
    assert last == Progress({plans[0].run: "not made", plans[1].run: "done"})
    assert table("runs")["task"].tolist() == ["line"]
    assert outcome.mistakes == ("There are no data in the cellar.",)
    assert outcome.not_made == plans[:1]
    assert outcome.statuses[plans[0].run] == "not made"
    assert outcome.finished == plans[1:]


def forks(process: subprocess.Popen) -> bool:
    """Whether its fork server was started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return any(b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


@pytest.mark.slow
@pytest.mark.ci
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
    assert "Interrupted, 0 of 2 runs are done." in error
    assert "Traceback" not in error, error


def test_an_interrupt_keeps_everything_and_the_same_sweep_resumes(own):
    overrides = ("optim.clipping_type=none,deadly:Slow", "seed=choice(0)", "steps=60", "checkpoint_every=1h")
    outcome = sweep(*overrides, "results=cut", interrupted=Path("stepping").exists)
    assert outcome.interrupted
    assert outcome.mistakes == ()
    assert len(outcome.finished) + len(outcome.not_made) == 2
    assert {plan.run_folder.checkpoint_step() > 0 for plan in outcome.not_made} >= {True}
    assert not list(Path("cut/.work").glob("*/lease.*"))
    assert sweep(*overrides, "results=cut").is_complete
    for plan in make_plans([*OVERRIDES, *overrides, "results=whole"], Path(".")):
        assert make_run(plan, never)["status"] == "done"
    assert_same_tables("cut", "whole")
    assert not Path("cut/.work").exists()


def test_when_the_sweep_is_killed_its_workers_keep_what_they_have_and_leave(own):
    overrides = ("optim.clipping_type=deadly:Slow", "seed=choice(0)", "steps=1000", "checkpoint_every=1h")
    process = start(*overrides, "results=cut")
    try:
        wait_for(Path("stepping").exists)
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not list(Path("cut/.work").glob("*/lease.*")))
    assert list(Path("cut/.work").glob("*/checkpoint-*.pt"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_worker_that_is_asked_to_end_keeps_what_it_has_and_the_sweep_goes_on(own, number):
    overrides = ("optim.clipping_type=deadly:Slow", "seed=choice(0)", "steps=200", "checkpoint_every=1h")
    process = start(*overrides, "results=cut")
    wait_for(Path("stepping").exists)
    [lease] = Path("cut/.work").glob("*/lease.*")
    os.kill(json.loads(lease.read_text())["pid"], number)
    wait_for(lambda: list(Path("cut/.work").glob("*/checkpoint-*.pt")))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert len(table("steps", "cut")) == 200


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_what_starts_the_workers_outlives_what_is_sent_to_all_processes(own, number):
    script = (
        "import multiprocessing.forkserver, os, signal, sys, time\n"
        "from clipbench.processes import start_context, unblock_ends\n"
        "context = start_context([])\n"
        "server = multiprocessing.forkserver._forkserver._forkserver_pid\n"
        "os.kill(server, int(sys.argv[1]))\n"
        "time.sleep(0.2)\n"
        "worker = context.Process(target=unblock_ends)\n"
        "worker.start()\n"
        "worker.join()\n"
        "assert worker.exitcode == 0, worker.exitcode\n"
        "assert multiprocessing.forkserver._forkserver._forkserver_pid == server\n"
    )
    command = [sys.executable, "-c", script, str(int(number))]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_a_run_that_another_process_makes_is_left_to_it_and_made_once_that_is_gone(own, monkeypatch):
    monkeypatch.setattr(scheduler, "LOOK_AGAIN", 0.1)
    plans = make_plans([*OVERRIDES, "optim.clipping_type=none", "seed=0,1"], Path("."))
    lease = Lease(plans[0].run_folder.path)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    seen = []

    def sink(event):
        """The other process ends when the sweep has nothing else to do."""
        if isinstance(event, MadeElsewhere):
            seen.append(event)
        if isinstance(event, Progress) and plans[1].run in event.statuses and event.elsewhere:
            other.kill()
            other.wait()

    try:
        assert lease.acquire() is None
        owner = {"host": "here", "machine": _machine(), "pid": other.pid, "started": _started(other.pid)}
        lease.path.write_text(json.dumps(owner))
        outcome = make_runs(plans, sink=sink)
    finally:
        other.kill()
        other.wait()
    assert [(event.run, event.status) for event in seen] == [(plans[0].run, "")]
    assert seen[0].owner.split(",")[0] == f"process {other.pid} on here"
    assert outcome.is_complete
    assert table("runs")["status"].tolist() == ["done", "done"]


ENDED = {"task": "a", "scale": "mini", "optimizer": "sgd", "clipping_type": "none", "seed": 0, "steps": 1}
ENDED |= {"seconds": 1.0, "skipped": 0, "headline": "loss", "higher_is_better": False}


def test_what_is_unfinished_are_new_and_failed_runs_and_finished_ones_leave_nothing(own):
    plans = make_plans([*OVERRIDES, "optim.clipping_type=none", "seed=range(4)"], Path("."))
    for plan, status in zip(plans, ("done", "diverged", "failed"), strict=False):
        tables.write_rows(plan.results, "runs", plan.run, [ENDED | {"status": status}])
        plan.run_folder.write_plan({"label": "left behind"})
    assert unfinished(plans) == plans[2:]
    assert [plan.run_folder.exists for plan in plans] == [False, False, True, False]
    Path("file").touch()
    with pytest.raises(UserError, match="Cannot write to the results folder file/results"):
        unfinished(
            make_plans([*OVERRIDES, "optim.clipping_type=none,norm", "results=file/results"], Path("."))
        )


def test_run_says_who_else_makes_it(own, capsys):
    plan = make_plans(["task=line", "steps=60", "optim.clipping_type=none,none"], own)[0]
    lease = Lease(plan.run_folder.path)
    assert lease.acquire() is None
    assert main(["run", "--config-dir", ".", "task=line", "steps=60", "optim.clipping_type=none"]) == 2
    assert f"This run is being made by process {os.getpid()} on" in capsys.readouterr().err


def test_arms_are_a_list_of_override_lists(own):
    (own / "experiment" / "pair.yaml").write_text(
        "all: [task=line, steps=5, optim=sgd]\n"
        "arms:\n  - [optim.clipping_type=norm, 'optim.clipping_level=0.5,1', optim.lr=0.01]\n"
        "  - [optim=adam, steps=7]\n"
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
def test_an_experiment_that_is_none_is_one_message(own, content, message):
    if content:
        (own / "experiment" / "pair.yaml").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        make_plans(["+experiment=pair"], Path("."))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.lockstep=0", "sweep.lockstep must be true, false or"),
        ("sweep.workers_per_device=0", "sweep.workers_per_device must be null or"),
        ("checkpoint_every=often", "checkpoint_every must be a time as 30s"),
        ("checkpoint_every=0", "checkpoint_every must be a time as 30s"),
        ("device=cpu,auto", "device must be the same for all runs of a sweep"),
    ],
)
def test_settings_of_the_sweep_are_checked(own, override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_plans([*OVERRIDES, "optim.clipping_type=none,norm", override], Path("."))


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
    tables.write_rows(Path("results"), "runs", "rother", [ENDED | {"status": "done"}])
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
        lr = None if task == "reddit" else optim.lr  # was not published
        found.append(
            (
                optim.name,
                lr,
                optim.clipping_type,
                getattr(rule, "clipping_level", None),
                getattr(rule, "p_autoclip", None),
            )
        )
        assert optim.name != "sgd" or optim.keywords["momentum"] == 0.9
        assert "rand" not in optim.clipping_type or rule.beta == 0.85
        assert (settings.schedule, settings.warmup, settings.seed) == ("constant", 0, 3)
        assert (settings.steps == STEPS[task]) == (scale == "full")
        if task == "cola" and optim.name == "adam":
            assert optim.keywords["weight_decay"] == 5e-4
    assert found == PUBLISHED[task]


def test_an_experiment_has_several_seeds_and_both_scales():
    plans = make_plans(["+experiment=torchclip_voc", "scale=mini,full"])
    assert Counter((plan.settings.scale, plan.settings.seed) for plan in plans) == {
        (scale, seed): 5 for scale in ("mini", "full") for seed in range(5)
    }
    assert {plan.settings.steps for plan in plans if plan.settings.scale == "full"} == {270}

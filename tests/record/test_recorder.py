"""Rows from anybody's loop: they say what happened there, cost no wait, and are not lost."""

import math
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import small_model
from tiny import Line
from torch.utils._python_dispatch import TorchDispatchMode

import clipbench
from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.optim import ClippedAdamW, ClippedSGD, Norm, clip_gradients
from clipbench.optim.laws import Waits
from clipbench.record.files import RUN_ID, new_run
from clipbench.record.found import OPTIMIZERS
from clipbench.record.kept import KeptRows
from clipbench.record.recorded import KILLED, lower_is_better
from clipbench.record.recorder import Recorder
from clipbench.record.rows import EvalRow, StepRow
from clipbench.record.unread import UnreadStep, UnreadSteps
from clipbench.task.seeds import fresh_model, generator
from clipbench.train.batches import device_batches
from clipbench.train.learner import Learner
from clipbench.train.loop import train
from clipbench.train.schedule import Schedule

ROOT = Path(__file__).parents[2]
EARLIER = ROOT / "tests" / "record" / "earlier_version" / "results"
CPU = torch.device("cpu")


def backward(model, step=0, scale=1.0):
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
    loss = scale * model(x).square().mean()
    loss.backward()
    return loss


def model_and(optimizer=torch.optim.SGD, **settings):
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    return model, optimizer(model.parameters(), **{"lr": 0.1, **settings})


def steps(record, model, optimizer, count, **given):
    for step in range(count):
        loss = backward(model, step)
        optimizer.step()
        record.step(loss, **given)
        optimizer.zero_grad()


def table(folder, name):
    return pd.read_parquet(folder / name)


def test_rows_say_what_the_loop_saw(tmp_path):
    model, optimizer = model_and(lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.5)
    seen = []
    with Recorder(
        tmp_path, optimizer, task="mine", clipping_type="norm", clipping_level=0.3, seed=4
    ) as record:
        for step in range(130):
            loss = backward(model, step)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            after = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
            optimizer.step()
            record.step(loss, grad_norm=norm)
            seen.append((step + 1, loss.item(), norm.item(), after, 0.5 * 0.5 ** (step // 10)))
            optimizer.zero_grad()
            schedule.step()
    found = table(tmp_path, "steps")
    assert list(found["run"].unique()) == [record.run]
    columns = ["step", "loss", "grad_norm", "clipped_norm", "lr"]
    assert found[columns].to_numpy() == pytest.approx(np.array(seen), rel=1e-5)
    factors = (found["clipped_norm"] / found["grad_norm"]).to_numpy()
    assert found["clip_factor"].to_numpy() == pytest.approx(factors, rel=1e-5)
    assert found["seconds"].is_monotonic_increasing
    row = table(tmp_path, "runs").iloc[0]
    expected = {
        "run": record.run,
        "task": "mine",
        "scale": "",
        "optimizer": "sgd",
        "lr": 0.5,
        "clipping_type": "norm",
        "method": "norm",
        "place": "gradient",
        "clipping_level": 0.3,
        "seed": 4,
        "status": "done",
        "steps": 130,
        "skipped": 0,
        "headline": "loss",
        "higher_is_better": False,
        "threads": torch.get_num_threads(),
    }
    assert {name: row[name] for name in expected} == expected
    assert row[["beta", "overrides", "final"]].isna().all()
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda p: ClippedSGD(p, lr=0.1, clipping_type="norm", clipping_level=0.3), ("sgd", "norm", 0.3)),
        (lambda p: ClippedAdamW(p, clipping_type="layer_wise"), ("adamw", "layer_wise", 1.0)),
        (lambda p: clip_gradients(torch.optim.RMSprop(p), Norm(0.3)), ("RMSprop", "norm", 0.3)),
        (lambda p: ClippedSGD(p, lr=0.1, clipping_type="none"), ("sgd", "none", None)),
    ],
)
def test_what_clips_is_found_on_the_optimizer(tmp_path, build, expected):
    model, _ = model_and()
    optimizer = build(model.parameters())
    norms = []
    with Recorder(tmp_path, optimizer) as record:
        for step in range(3):
            loss = backward(model, step)
            norms.append(math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters())))
            optimizer.step()
            optimizer.zero_grad()  # its own clipping has measured them
            record.step(loss)
    row, found = table(tmp_path, "runs").iloc[0], table(tmp_path, "steps")
    level = None if pd.isna(row["clipping_level"]) else row["clipping_level"]
    assert (row["optimizer"], row["clipping_type"], level) == expected
    assert found["grad_norm"].to_numpy() == pytest.approx(norms, rel=1e-5)
    if expected[1] == "norm":
        assert found["clipped_norm"].to_numpy() == pytest.approx([min(0.3, norm) for norm in norms], rel=1e-5)


def test_without_clipping_the_norm_is_measured_and_others_are_told_or_measured(tmp_path):
    model, optimizer = model_and()
    with Recorder(tmp_path / "none", optimizer) as record:
        loss = backward(model)
        expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
        record.step(loss)
    row = table(tmp_path / "none", "steps").iloc[0]
    assert (row["grad_norm"], row["clipped_norm"], row["clip_factor"]) == pytest.approx(
        (expected, expected, 1)
    )
    with Recorder(tmp_path / "value", optimizer, clipping_type="value", clipping_level=1e-3) as record:
        torch.nn.utils.clip_grad_value_(model.parameters(), 1e-3)
        after = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
        record.step(loss, grad_norm=expected)
        record.step(loss, grad_norm=expected, clipped_norm=0.25)
    assert list(table(tmp_path / "value", "steps")["clipped_norm"]) == pytest.approx([after, 0.25])


def test_it_gives_the_rows_of_the_benchs_own_learner(tmp_path):
    """The same weights, batches and dropout in a plain loop."""
    task = Line()

    def optimizer_of(model):
        return ClippedSGD(model.parameters(), lr=0.05, momentum=0.9, clipping_type="norm", clipping_level=1)

    model = fresh_model(task, 0)
    schedule = Schedule("constant", 0, 30)
    learner = Learner(
        task,
        model,
        optimizer_of(model),
        seed=0,
        device=CPU,
        precision="fp32",
        schedule=schedule,
        max_loss=1e4,
    )
    batches = device_batches(task, task.train_batches(generator(0, "data")), CPU)
    ours = []
    for new in train([learner], batches, steps=30, eval_every=30):
        for rows in new.values():
            ours += [row for row in rows if isinstance(row, StepRow)]
    model = fresh_model(task, 0)
    optimizer = optimizer_of(model)
    torch.manual_seed(generator(0, "dropout").initial_seed())
    with Recorder(tmp_path, optimizer, steps_per_epoch=8) as record:
        for _, (x, y) in zip(range(30), task.train_batches(generator(0, "data")), strict=False):
            optimizer.zero_grad()
            loss = task.loss(model(x), y)
            loss.backward()
            optimizer.step()
            record.step(loss)
    theirs = table(tmp_path, "steps").drop(columns=["run", "seconds"])
    expected = pd.DataFrame([vars(row) for row in ours]).drop(columns="seconds").astype(theirs.dtypes)
    pd.testing.assert_frame_equal(theirs, expected, check_exact=True)


@pytest.mark.parametrize("given", [{}, {"clipping_type": "norm", "clipping_level": 1.0}])
def test_a_step_waits_for_nothing_until_a_block_is_read(tmp_path, given, monkeypatch):
    monkeypatch.setattr("clipbench.record.recorder.READ_EVERY_SECONDS", 1e9)
    model, optimizer = model_and()
    loss = backward(model)
    more = {"grad_norm": torch.ones(())} if given else {}
    with Recorder(tmp_path, optimizer, **given) as record:
        with Waits() as waits:
            for _ in range(63):
                record.step(loss, **more)
        assert (waits.count, len(record.unread)) == (0, 63)
        kept = [step.values for step in record.unread]
        assert all(values.untyped_storage().nbytes() == 12 and not values.requires_grad for values in kept)
        assert not record.kept.path.exists()
        record.step(loss, **more)
        assert len(record.unread) == 0
        assert record.kept.last_step() == 64


class Launched(TorchDispatchMode):
    """Names of the operators that do something."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() not in ("aten::detach", "aten::promote_types"):
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "count"), [("ours", 1), ("torch's", 2), ("none", 4)])
def test_a_step_launches_as_many_operators_as_the_page_says(tmp_path, kind, count):
    model, optimizer = model_and(ClippedSGD if kind == "ours" else torch.optim.SGD)
    told = {"clipping_type": "norm", "clipping_level": 1.0} if kind == "torch's" else {}
    given = {"grad_norm": torch.ones(())} if told else {}
    loss = backward(model)
    optimizer.step()
    with Recorder(tmp_path, optimizer, **told) as record:
        with Launched() as launched:
            record.step(loss, **given)
        assert len(launched.names) == count, launched.names


def test_evaluations_become_the_outcome_as_in_the_bench(tmp_path):
    model, optimizer = model_and()
    with Recorder(tmp_path, optimizer) as record:
        steps(record, model, optimizer, 2)
        record.evaluate("train", loss=9.0)
        for accuracy in (0.2, torch.tensor(0.75), 0.5):
            steps(record, model, optimizer, 1)
            record.evaluate("val", accuracy=accuracy, loss=1)
        record.evaluate("val", accuracy=0.6)  # again at this step: the last counts
        record.evaluate("test", accuracy=0.4)
    row = table(tmp_path, "runs").iloc[0]
    assert (row["headline"], row["higher_is_better"]) == ("accuracy", True)
    assert (row["final"], row["best"], row["final_test"]) == (0.6, 0.75, 0.4)
    evals = table(tmp_path, "evals")
    assert list(evals["split"]) == ["train", *["val"] * 6, "test"]
    assert list(evals["step"]) == [2, 3, 3, 4, 4, 5, 5, 5]


def test_the_direction_of_a_metric_is_read_off_its_name():
    assert all(map(lower_is_better, ["loss", "eval_loss", "val/mse", "PPL", "word error"]))
    assert not any(map(lower_is_better, ["accuracy", "f1", "mcc", "closs", "glossiness"]))


def test_the_time_of_an_evaluation_is_left_out(tmp_path, monkeypatch):
    now = {"seconds": 0.0}
    monkeypatch.setattr("clipbench.record.recorder.time.perf_counter", lambda: now["seconds"])
    model, optimizer = model_and()
    with Recorder(tmp_path, optimizer) as record:
        for step in range(4):
            loss = backward(model, step)
            now["seconds"] += 2
            record.step(loss)
            if step == 1:
                now["seconds"] += 50
                record.evaluate("val", loss=1)
    assert list(table(tmp_path, "steps")["seconds"]) == [2, 4, 6, 8]


def test_a_loop_that_raises_is_failed_with_its_traceback_and_keeps_its_rows(tmp_path, capsys):
    model, optimizer = model_and()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117
        with Recorder(tmp_path, optimizer, task="mine") as record:
            steps(record, model, optimizer, 3)
            1 / 0  # noqa: B018
    row = table(tmp_path, "runs").iloc[0]
    assert (row["status"], row["steps"]) == ("failed", 3)
    assert row["error"].startswith("Traceback")
    assert "ZeroDivisionError: division by zero" in row["error"]
    assert len(table(tmp_path, "steps")) == 3
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert record.run in shown
    assert "same command" not in shown
    assert "clipbench run" not in shown


def test_a_run_diverges_where_its_last_loss_or_its_last_steps_are_not_finite(tmp_path):
    for name, losses in {"loss": [1.0, math.nan], "back": [1.0, math.nan, 1.0], "none": [None, None]}.items():
        model, optimizer = model_and()
        backward(model)
        with Recorder(tmp_path, optimizer, task=name) as record:
            for loss in losses:
                record.step(loss)
    model, optimizer = model_and(ClippedSGD)
    with Recorder(tmp_path, optimizer, task="stuck") as record:
        steps(record, model, optimizer, 2)
        for _ in range(3):
            backward(model, scale=math.nan)
            optimizer.step()
            record.step(1.0)
    runs = table(tmp_path, "runs").set_index("task")
    expected = {"loss": "diverged", "back": "done", "none": "done", "stuck": "diverged"}
    assert runs["status"].to_dict() == expected
    assert runs["skipped"]["stuck"] == 3


def test_a_step_that_a_scaler_left_out_is_one_that_was_skipped(tmp_path):
    model, optimizer = model_and(ClippedSGD)
    with Recorder(tmp_path, optimizer) as record:
        steps(record, model, optimizer, 2)
        record.step(1.0)  # optimizer.step was not called
        steps(record, model, optimizer, 1)
    assert list(table(tmp_path, "steps")["clip_factor"] == 0) == [False, False, True, False]
    assert table(tmp_path, "runs")["skipped"][0] == 1


SCRIPT = """
import os, signal, sys, torch
from clipbench import Recorder

model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
record = Recorder(sys.argv[1], optimizer)
for _ in range(100):
    loss = model(torch.ones(2, 3)).square().mean()
    loss.backward()
    optimizer.step()
    record.step(loss)
    optimizer.zero_grad()
if not os.fork():  # a child that ends is not the script
    sys.exit()
os.wait()
{end}
"""

ENDS = {
    "open": "",
    "raises": "raise RuntimeError('the disk is on fire')",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """{how a script ended: its results folder}: none of them closed its Recorder."""
    folder = tmp_path_factory.mktemp("scripts")
    running = {}
    for how, end in ENDS.items():
        script = folder / f"train_{how}.py"
        script.write_text(SCRIPT.format(end=end))
        command = [sys.executable, "-W", "ignore", script, folder / how]
        running[how] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for how, process in running.items():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == {"open": 0, "raises": 1, "killed": -9}[how], errors
    return {how: folder / how for how in ENDS}


def test_a_script_that_ends_without_closing_is_closed(ended):
    row = table(ended["open"], "runs").iloc[0]
    assert (row["task"], row["status"], row["steps"]) == ("train_open", "done", 100)
    row = table(ended["raises"], "runs").iloc[0]
    assert (row["task"], row["status"], row["steps"]) == ("train_raises", "failed", 100)
    assert "RuntimeError: the disk is on fire" in row["error"]


def test_a_script_that_is_killed_loses_only_what_was_not_written(ended, tmp_path, capsys):
    folder = tmp_path / "results"
    shutil.copytree(ended["killed"], folder)
    (run,) = [path.name for path in (folder / ".work").iterdir()]
    assert main(["status", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{run} +64 +train_killed", shown)
    assert "cannot be resumed" in shown
    assert "Re-run" not in shown
    assert "same command" not in shown
    _, optimizer = model_and()
    Recorder(folder, optimizer, task="next").close()  # without a step it leaves nothing of its own
    row = table(folder, "runs").iloc[0]
    assert (row["run"], row["status"], row["steps"], row["error"]) == (run, "failed", 64, KILLED)
    assert list(table(folder, "steps")["step"]) == list(range(1, 65))
    assert not (folder / ".work").exists()


def test_rm_removes_it(ended, tmp_path, capsys):
    folder = tmp_path / "results"
    shutil.copytree(ended["killed"], folder)
    (run,) = [path.name for path in (folder / ".work").iterdir()]
    assert main(["rm", str(folder), run, "--yes"]) == 0
    assert not (folder / ".work").exists()


def test_one_that_is_at_work_is_left_alone(tmp_path, capsys):
    model, optimizer = model_and()
    with Recorder(tmp_path, optimizer) as first, Recorder(tmp_path, optimizer) as second:
        steps(first, model, optimizer, 65)
        backward(model)
        second.step(1.0)
        assert main(["status", str(tmp_path)]) == 0
        assert "2 being made now" in capsys.readouterr().out
        assert main(["rm", str(tmp_path), first.run, "--yes"]) == 0
        assert "Left alone" in capsys.readouterr().out
    runs = table(tmp_path, "runs").set_index("run")
    assert runs["steps"].to_dict() == {first.run: 65, second.run: 1}


def test_what_the_disk_refuses_is_written_later(tmp_path):
    model, optimizer = model_and()
    with Recorder(tmp_path, optimizer) as record:
        away = tmp_path / "away"
        record.folder.path.rename(away)
        with pytest.warns(RuntimeWarning, match=r"rows\.jsonl now: No such file.*Training goes on"):
            steps(record, model, optimizer, 64)
        away.rename(record.folder.path)
        steps(record, model, optimizer, 6)
    assert list(table(tmp_path, "steps")["step"]) == list(range(1, 71))


def test_lines_that_were_cut_off_or_stand_twice_are_passed_over(tmp_path):
    kept = KeptRows(tmp_path)
    assert (list(kept.steps()), kept.evals(), kept.last_step()) == ([], [], 0)
    rows = [StepRow(step, 0.5, 1.0, math.nan, 2.0, 1.0, 0.5, 0.1) for step in (1, 2, 3)]
    of_eval = [EvalRow(2, 1.0, "val", "mse", value) for value in (1.0, math.inf)]
    kept.append([*rows[:2], of_eval[0]])
    with open(kept.path, "ab") as file:
        file.write(b'["step", 3, 0.5, 1.')
    kept.append([rows[1], rows[2], of_eval[1]])
    assert repr(list(kept.steps())) == repr(rows)
    assert kept.evals() == of_eval[1:]
    assert kept.last_step() == 3


def test_steps_after_a_divergence_do_not_count():
    unread = UnreadSteps()
    for step, (loss, norm) in enumerate([(1, 2), (2, math.nan), (9, 1), (1, 1)], 1):
        values = torch.tensor([loss, norm, 1.0])
        unread.add(UnreadStep(step, 0.0, 0.1, values, lambda: 0.5))
    rows = unread.read(max_loss=5)
    assert [(row.step, row.clip_factor) for row in rows] == [(1, 0.5), (2, 0.0), (3, 1.0)]
    assert (unread.seconds, unread.skipped, unread.skipped_last, len(unread)) == (1.5, 1, 0, 0)


def test_the_benchs_names_of_optimizers():
    for path in (ROOT / "conf" / "optim").glob("*.yaml"):
        target = yaml.safe_load(path.read_text()).get("_target_")
        if target is None:
            continue
        module, _, name = target.rpartition(".")
        assert isinstance(getattr(import_module(module), name), type)
        assert OPTIMIZERS[f"{module.partition('.')[0]}.{name}"] == path.stem


def test_an_id_is_new_each_time_and_one_of_ours():
    assert RUN_ID.fullmatch(new_run())
    assert new_run() != new_run()
    assert RUN_ID.fullmatch("r0123456789ab")
    assert not RUN_ID.fullmatch("x0123456789ab")


def file_in_the_way(tmp_path):
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "str is no torch optimizer"),
        ({"optimizer": small_model()}, "is no torch optimizer"),
        ({"folder": file_in_the_way}, "Cannot write to the results folder .*file.* Choose another"),
        ({"clipping_type": "nrom"}, "Unknown clipping_type 'nrom'. Did you mean 'norm'"),
        ({"clipping_type": "norm", "clipping_level": -1}, "clipping_level must be above 0, got -1"),
        ({"clipping_level": 1}, "clipping_level=1 without clipping_type"),
        ({"optimizer": ClippedSGD, "clipping_type": "norm"}, "clipping_type: the optimizer clips by itself"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"task": " "}, "task must be a name, got ' '"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be above 0 and finite, got 0"),
    ],
)
def test_a_recorder_that_cannot_be_built_says_why_in_one_line(tmp_path, settings, message):
    _, optimizer = model_and()
    folder, given = settings.get("folder"), settings.get("optimizer", optimizer)
    if given is ClippedSGD:
        _, given = model_and(ClippedSGD)
    rest = {name: value for name, value in settings.items() if name not in ("folder", "optimizer")}
    with pytest.raises(UserError, match=message) as raised:
        Recorder(folder(tmp_path) if folder else tmp_path, given, **rest)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / ".work").exists()


@pytest.mark.parametrize(
    ("settings", "call", "message"),
    [
        ({}, lambda record: record.step(torch.ones(3)), r"loss must be one number.*shape \(3,\)"),
        ({}, lambda record: record.step("1.0"), "loss must be a number, got '1.0'"),
        ({}, lambda record: record.step(1.0, grad_norm=2.0), "grad_norm is given, and not what clips"),
        ({}, lambda record: record.step(1.0, clipped_norm=2.0), "The norm before clipping is missing"),
        ({"clipping_type": "norm"}, lambda record: record.step(1.0), "The norm before clipping is missing"),
        ({}, lambda record: record.evaluate("val"), "No metric"),
        ({}, lambda record: record.evaluate("validation", loss=1), "called 'val' here, got 'validation'"),
        ({}, lambda record: record.evaluate("", loss=1), "split must be a name"),
        ({}, lambda record: record.evaluate("val", acc="high"), "acc must be a number, got 'high'"),
        ({}, lambda record: record.evaluate("val", acc=True), "acc must be a number, got True"),
    ],
)
def test_a_call_that_cannot_be_right_says_why_and_records_nothing(tmp_path, settings, call, message):
    model, optimizer = model_and()
    backward(model)
    with Recorder(tmp_path, optimizer, **settings) as record:
        more = {"grad_norm": 1.0} if settings else {}
        record.step(1.0, **more)
        with pytest.raises(UserError, match=message):
            call(record)
    assert len(table(tmp_path, "steps")) == 1
    assert not len(table(tmp_path, "evals"))


def test_calls_in_the_wrong_order(tmp_path):
    model, optimizer = model_and()
    record = Recorder(tmp_path, optimizer)
    with pytest.raises(UserError, match="evaluate before any step"):
        record.evaluate("val", loss=1)
    with pytest.raises(UserError, match="no gradient to measure"):
        record.step(1.0)
    steps(record, model, optimizer, 1)
    record.close()
    record.close()
    for call in (lambda: record.step(1.0), lambda: record.evaluate("val", loss=1)):
        with pytest.raises(UserError, match=f"after close: run {record.run} has ended"):
            call()


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """A folder with runs of the bench and, under the name of their task, loops of one's own; {run: type} of
    those that have the same metric.
    """
    started = iter(range(10))
    at = "2026-01-31T12:00:0{}+00:00"
    monkeypatch.setattr("clipbench.record.recorder.now", lambda: at.format(next(started)))
    folder = tmp_path / "results"
    shutil.copytree(EARLIER, folder)
    task = table(folder, "runs")["task"].iloc[0]
    model, optimizer = model_and()
    with Recorder(folder, optimizer, task=task) as one:
        steps(one, model, optimizer, 5)
        one.evaluate("val", perplexity=3)
    recorded = {}
    for seed in range(3):
        for kind, better in (("none", 0.0), ("norm", 0.3)):
            with Recorder(
                folder, optimizer, task=task, clipping_type=kind, clipping_level=0.5, seed=seed
            ) as one:
                steps(one, model, optimizer, 5, grad_norm=torch.tensor(2.0))
                one.evaluate("val", accuracy=0.5 + better + 0.01 * seed)
            recorded[one.run] = kind
    return folder, recorded


def test_beside_runs_of_the_bench_they_are_shown_and_change_nothing(mixed, capsys):
    folder, recorded = mixed
    assert main(["table", str(EARLIER), "--format", "csv"]) == 0
    ours = capsys.readouterr().out.splitlines()
    assert main(["table", str(folder), "--format", "csv"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert set(ours) <= set(found)
    new = [line for line in found if line not in ours]
    assert {line.split(",")[5].split()[-1] for line in new} == set(recorded)
    assert main(["plot", str(folder)]) == 0
    assert "nothing pairs runs of loops of one" in (folder / "figures" / "report.html").read_text()
    assert main(["plot", str(folder), "--apart", "--out", str(folder / "apart")]) == 0
    assert main(["status", str(folder)]) == 0
    assert len(clipbench.results(folder).runs) == len(table(EARLIER, "runs")) + 7


def test_no_difference_is_tested_among_them(mixed):
    folder, recorded = mixed
    (group,) = [group for group in read_groups(folder) if group.is_recorded]
    (ranking,) = rankings(group)
    assert (ranking.reference, ranking.comparisons, ranking.missing) == (None, {}, ())
    assert judge(ranking).kind == "open"
    assert sorted(configuration.runs for configuration in group.configurations) == sorted(
        (run,) for run in recorded
    )
    assert (group.headline, group.higher_is_better) == ("accuracy", True)
    assert group.notes == ("runs left out: 1 judged by another metric",)


def test_the_page_shows_a_loop_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "recorder.md").read_text()
    assert len(text.splitlines()) <= 60
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model, optimizer = model_and()
    data = [(torch.randn(8, 6), torch.zeros(8, 2)) for _ in range(3)]
    names = {"torch": torch, "model": model, "optimizer": optimizer, "batches": data}
    names |= {"criterion": torch.nn.functional.mse_loss, "accuracy": lambda model: 0.5}
    exec(code, names)
    row = clipbench.results("results").runs.iloc[0]
    assert (row["status"], row["steps"], row["final"]) == ("done", 3, 0.5)

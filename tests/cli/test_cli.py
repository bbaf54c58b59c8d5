"""The commands as a user types them: results, exit codes, messages; nothing that was computed is lost."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from clipbench.cli.main import main
from clipbench.cli.sources import config_folders
from clipbench.optim import RULES, TIED

OWN = Path(__file__).parents[1].joinpath("tiny.py")


def furnish(folder):
    """A user's folder with a task and a rule of their own."""
    (folder / "task").mkdir()
    (folder / "task" / "line.yaml").write_text(
        "# Points near a plane\nname: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\n"
        "explode_at: -1\nfail_at: -1\n"
    )
    (folder / "own_line.py").write_text(OWN.read_text())
    (folder / "my_clip.py").write_text(
        "from dataclasses import dataclass\nfrom clipbench.optim import Rule\n\n@dataclass(frozen=True)\n"
        'class Smooth(Rule):\n    """α = η/√(η² + ‖g‖²)"""\n\n    clipping_level: float = 1.0\n\n'
        "    def __call__(self, grads, params, state, rng):\n"
        "        return self.clipping_level / (self.clipping_level**2 + grads.norm**2).sqrt(), state\n"
    )


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working directory is a user's folder."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_line", "own_headless", "my_clip"):  # the next test's files of these names lie elsewhere
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def swept_once(tmp_path_factory):
    """A user's folder in which `clipbench sweep` was typed without axes, and what it said."""
    folder = tmp_path_factory.mktemp("swept")
    furnish(folder)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        code = clipbench("sweep", "sweep.workers_per_device=1")
        sys.modules.pop("own_line", None)
    assert code == 0
    return folder, said.getvalue()


@pytest.fixture
def swept(own, swept_once):
    shutil.copytree(swept_once[0] / "results", own / "results")
    return swept_once[1]


def clipbench(command, *words):
    try:
        return main([command, "--config-dir", ".", "task=line", "steps=20", "eval_every=10", *words])
    except SystemExit as stop:
        return stop.code


def table(name, folder="results"):
    return pd.read_parquet(Path(folder) / name)


def test_run_records_and_shows_its_result(own, capsys):
    assert clipbench("run", "optim.clipping_type=auto", "optim.p_autoclip=0.5") == 0
    shown = capsys.readouterr().out
    row = table("runs").iloc[0]
    assert row["status"] == "done"
    assert (row["task"], row["clipping_type"], row["p_autoclip"], row["steps"]) == ("line", "auto", 0.5, 20)
    assert f"{row['final_test']:.3f} on test" in shown
    for part in ("128 points near a plane", row["run"], "% of 20 steps", "figures"):
        assert part in shown
    assert len(table("steps")) == 20
    val = table("evals").query("split == 'val' and metric == 'mse'")["value"]
    assert (row["final"], row["best"]) == (val.iloc[-1], val.min())  # of an error, the smallest is best
    assert json.loads(row["config"])["optim"]["clipping_type"] == "auto"
    assert not Path("results/.work").exists()


def test_a_finished_run_is_not_repeated_but_shown(own, capsys):
    assert clipbench("run") == 0
    written = next(Path("results/runs").iterdir())
    before = written.stat().st_mtime_ns
    assert clipbench("run") == 0
    assert "is finished already" in capsys.readouterr().out
    assert written.stat().st_mtime_ns == before


def test_a_rule_of_ones_own(own):
    assert clipbench("run", "optim.clipping_type=my_clip:Smooth", "optim.clipping_level=2") == 0
    row, steps = table("runs").iloc[0], table("steps")
    assert (row["clipping_type"], row["clipping_level"]) == ("my_clip:Smooth", 2.0)
    expected = 2 / (4 + steps["grad_norm"] ** 2) ** 0.5
    assert steps["clip_factor"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-5)


def test_a_run_that_diverges_is_a_result(own, capsys):
    assert clipbench("run", "task.explode_at=7") == 0
    row = table("runs").iloc[0]
    assert (row["status"], row["steps"]) == ("diverged", 7)
    assert "diverged" in capsys.readouterr().out


def test_a_step_that_was_skipped_is_not_clipped(own, capsys):
    assert clipbench("run", "optim.clipping_type=none", "task.explode_at=7", "max_loss=inf") == 0
    assert (table("steps").query("step == 7")["clip_factor"] == 0).all()
    said = capsys.readouterr()
    assert "0% of 19 steps; 1 more skipped" in said.out
    assert re.findall(r"clipped (\d+%)", said.err) == ["0%", "0%"]


def test_a_run_that_fails_is_recorded_with_its_traceback_and_tried_again(own, capsys):
    assert clipbench("run", "task.fail_at=5") == 1
    row = table("runs").iloc[0]
    assert row["status"] == "failed"
    assert "the disk is on fire" in row["error"]
    assert "the disk is on fire" in capsys.readouterr().err
    assert clipbench("run", "task.fail_at=5") == 1


def test_a_sweep_without_axes_is_all_core_types(swept):
    runs = table("runs")
    assert runs.groupby("clipping_type").size().to_dict() == dict.fromkeys(RULES, 2)
    assert set(runs["status"]) == {"done"}
    assert f"{2 * len(RULES)} runs, 0 of them finished already, {2 * len(RULES)} to do, into results" in swept
    for name in RULES:
        assert re.search(rf"^line \(mini\) +adamw +{name} .* 2 +0 +mse ", swept, re.MULTILINE)


def test_sweep_makes_the_grid_once(swept, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path("results/runs").iterdir()}
    assert clipbench("sweep", "-m", "optim.clipping_type=none,norm,auto", "seed=0,1") == 0
    assert "6 runs, 6 of them finished already, 0 to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("results/runs").iterdir()} == before


def test_levels_of_a_type_that_has_none_are_one_run(swept, capsys):
    """Of the four runs, `none` and `norm` at its default level are there."""
    words = ("optim.clipping_type=none,norm", "optim.clipping_level=0.5,1,inf", "seed=0")
    assert clipbench("sweep", "--dry-run", *words) == 0
    assert "4 runs into results: 2 finished, 2 to do" in capsys.readouterr().out


def test_a_failed_run_costs_only_itself(own, capsys):
    assert clipbench("sweep", "task.fail_at=-1,5", "sweep.workers_per_device=1") == 1
    assert sorted(table("runs")["status"]) == ["done", "failed"]
    assert "failed: clipbench run" in capsys.readouterr().err


def test_plot_draws_from_the_tables(swept, capsys):
    assert main(["rm", "results", "clipping_type!=none,norm", "--yes"]) == 0
    capsys.readouterr()
    assert main(["plot", "results", "--out", "drawn"]) == 0
    drawn = capsys.readouterr().out.split()
    assert len(drawn) == 5
    assert all(Path(path).stat().st_size > 10_000 for path in drawn)


def test_a_foreign_file_is_skipped_with_a_message(swept, capsys):
    Path("results/steps/foreign.parquet").write_text("no parquet")
    Path("results/runs/foreign.parquet").write_text("no parquet")
    assert main(["rm", "results", "clipping_type!=none,norm", "--yes"]) == 0
    for words in (["plot", "results/"], ["table"], ["status"]):
        capsys.readouterr()
        assert main(words) == 0
        assert "foreign.parquet: not a readable clipbench table" in capsys.readouterr().err
    assert clipbench("sweep", "optim.clipping_type=none,norm", "seed=0") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "Unknown command 'rnu'. Did you mean 'run'?"),
        (["run", "optim.clpping_type=auto"], "Did you mean 'optim.clipping_type'"),
        (["run", "--levle=3"], "Unknown option --levle=3"),
        (["sweep", "+experiment=none_such"], "Unknown experiment 'none_such'"),
        (
            ["sweep", "task=cola", "sweep.workers_per_device=0"],
            "sweep.workers_per_device must be null or",
        ),
        (["run", "device=cuda:99"], "device=cuda"),
        (["run", "device=gpu"], "Unknown device 'gpu'. Known: auto, cpu, cuda"),
        (["run", "optim.betas=[2,3]"], "Invalid beta"),
        (["run", "optim.nonfinite=ignore"], "nonfinite must be one of skip, raise"),
        (["plot", "nowhere"], "There is no folder nowhere"),
        (["plot", "--dpi", "3"], "nrecognized arguments"),
        (["plot", "--width", "3"], "--width 3: a width has a unit"),
        (["plot", "--width", "99cm"], "--width 99cm: a width has a unit and lies between 3in and 12in"),
        (["tails", "--width", "99cm"], "--width 99cm: a width has a unit and lies between 3in and 12in"),
        (["run", "--config-dir", "nowhere"], "nowhere is not a folder"),
        (["run", "results=file/inside"], "Cannot write to the results folder"),
        (["run", "--config-dir", ".", "task=broken"], "there is no module 'nowhere'"),
        (["run", "--config-dir", ".", "task=keyword"], "unexpected keyword argument 'colour'"),
        (
            ["run", "--config-dir", ".", "task=headless"],
            "Headless.headline is 'speed', which is not among its metrics: mse",
        ),
        (["run", "--config-dir", ".", "task=thing"], "must be a class that inherits clipbench.task.Task"),
        (
            ["prepare", "task=cola", "scale=full", "task.data=nowhere"],
            "task.data=nowhere: there is no in_domain_train.tsv",
        ),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(own, capsys, words, message):
    Path("file").write_text("")
    Path("task/broken.yaml").write_text("name: broken\n_target_: nowhere.Mine\n")
    Path("task/keyword.yaml").write_text("name: keyword\n_target_: own_line.Line\ncolour: red\n")
    Path("own_headless.py").write_text(
        "from own_line import Line\nclass Headless(Line):\n    headline = 'speed'\n"
    )
    Path("task/headless.yaml").write_text("name: headless\n_target_: own_headless.Headless\n")
    Path("task/thing.yaml").write_text("name: thing\n_target_: pathlib.Path\n")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("results/runs").exists()


def test_the_list_has_a_row_for_everything(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    named = {line.split()[0] for line in shown.splitlines() if line.startswith("  ")}
    optimizers = {path.stem for path in config_folders(None)[0].glob("optim/*.yaml")} - {"clipping"}
    assert {*RULES, *TIED, *optimizers, "restart"} <= named
    assert "restart.first=null, restart.coeff=1.25, restart.max=2000" in shown


def test_help_lists_every_key_and_the_users_own_tasks(own, capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help", "--config-dir", "."])
    shown = capsys.readouterr().out
    for word in ("clipping_level", "p_autoclip", "eval_every", "weight_decay", "scale=", "|line"):
        assert word in shown
    assert main(["list", "--config-dir", "."]) == 0
    shown = capsys.readouterr().out
    assert "Points near a plane" in shown
    assert "α = min(1, η/‖g‖)" in shown


def test_what_is_left_aside_is_said_and_no_scale_is_advised_that_a_task_has_not(own, capsys):
    assert clipbench("run", "optim.clipping_type=auto", "optim.clipping_level=3") == 0
    said = capsys.readouterr()
    assert "note: optim.clipping_level changes nothing for auto" in said.err
    assert "scale=full" not in said.out
    grid = ("optim.clipping_type=none,norm", "optim.clipping_level=1,2", "seed=choice(0)")
    assert clipbench("sweep", "--dry-run", *grid) == 0
    assert "note: the grid has 4 points and 3 runs" in capsys.readouterr().err
    (own / "task_scale").mkdir()
    (own / "task_scale" / "line_full.yaml").write_text("# @package _global_\nsteps: 30\n")
    assert clipbench("run", "optim.clipping_type=auto", "optim.clipping_level=3") == 0
    assert "clipbench prepare task=line scale=full" in capsys.readouterr().out


def help_of(capsys, *words):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_help_of_a_task_has_its_keys_and_no_other_tasks(capsys):
    everything = help_of(capsys, "run")
    shown = help_of(capsys, "sweep", "task=voc")
    assert "task=voc scale=full" in shown
    assert "VOCdevkit" in shown
    assert "task=cola scale" not in shown
    assert "optim=sgd:" not in shown
    assert shown.count("\n") < 0.5 * everything.count("\n")
    shown = help_of(capsys, "run", "task=voc,cola", "optim=sgd", "scale=mini")
    assert "task=cola scale=mini" in shown
    assert "optim=sgd:" in shown
    assert "scale=full sets" not in shown
    assert main(["run", "--help", "task=vco"]) == 2
    assert "Did you mean 'voc'?" in capsys.readouterr().err


def start(*words):
    """The command in a process of its own, where a step takes at least 10 ms."""
    command = [
        sys.executable,
        "-m",
        "clipbench",
        "run",
        "--config-dir",
        ".",
        "task=line",
        "eval_every=20",
        *words,
    ]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "LINE_SECONDS": "0.01"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_ctrl_c_loses_nothing_and_the_same_command_resumes(own):
    process = start("steps=120", "results=cut")
    for line in process.stderr:
        if line.startswith("step 20/"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Finishing the step and keeping everything. Ctrl-C again stops now." in error
    assert "Nothing is lost: re-run the same command to resume." in error
    assert "Traceback" not in error
    assert not list(Path("cut").glob("runs/*.parquet"))
    assert clipbench("run", "steps=120", "eval_every=20", "results=cut") == 0
    assert clipbench("run", "steps=120", "eval_every=20", "results=whole") == 0
    for name in ("steps", "evals"):
        cut, whole = (
            table(name, folder).drop(columns="seconds").sort_values(["step"], kind="stable")
            for folder in ("cut", "whole")
        )
        pd.testing.assert_frame_equal(cut.reset_index(drop=True), whole.reset_index(drop=True))
    assert not Path("cut/.work").exists()

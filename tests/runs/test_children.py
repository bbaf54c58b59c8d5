"""Runs that transform the weights of another: one training for all of them, whatever asks for it, and the
weights that were judged.
"""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import clipbench
from clipbench.api import make_run, make_with_parent
from clipbench.cli.main import main
from clipbench.errors import Unreadable, UserError
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.runs.lockstep import train_group
from clipbench.runs.noise import measure_noise
from clipbench.runs.plan import is_finished, make_plan, plan_of, with_parents
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.launch import launch
from clipbench.sweeps.scheduler import make_runs
from clipbench.transform.rounding import rounded

OWN = Path(__file__).parents[1].joinpath("tiny.py")
COUNTED = """
from clipbench.task.seeds import generator
from own_line import Line as Plain

class Line(Plain):
    def train_batches(self, rng):
        if rng.initial_seed() in [generator(seed, "data").initial_seed() for seed in range(3)]:
            with open("trainings", "a") as file:
                file.write("once\\n")
        yield from super().train_batches(rng)
"""
OWN_TRANSFORM = """
from dataclasses import dataclass
import torch
from clipbench.transform import Transform

@dataclass(frozen=True)
class Noisy(Transform):
    place = "weight"
    size: float = 0.1

    def apply(self, model, source):
        yield "clean"
        weight = model[0].weight
        with torch.no_grad():
            weight += self.size * torch.randn(weight.shape, generator=source.generator("faults"))
        yield "noisy"
        if self.size > 1:
            raise RuntimeError("too much of it")
"""
RUN = ["task=line", "steps=12", "eval_every=4", "batch_size=16", "threads=1", "results=there"]


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: counted.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (tmp_path / "transform").mkdir()
    (tmp_path / "transform" / "noisy.yaml").write_text(
        "defaults: [keys, _self_]\nname: noisy\n_target_: own_transform.Noisy\nsize: 0.1\n"
    )
    (tmp_path / "own_line.py").write_text(OWN.read_text())
    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "own_transform.py").write_text(OWN_TRANSFORM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    for name in ("own_line", "counted", "own_transform"):
        sys.modules.pop(name, None)


def plan(*overrides):
    return make_plan([*RUN, *overrides], Path())


def made(*overrides):
    """The row of the run, once it and what it starts from are made in this process."""
    return make_with_parent(plan(*overrides), never, lambda each: nullcontext())


def sweep(*overrides):
    return make_runs(make_plans([*RUN, *overrides], Path()))


def trainings():
    path = Path("trainings")
    return len(path.read_text().splitlines()) if path.exists() else 0


def runs(folder="there"):
    return tables.read(Path(folder), "runs").set_index("run")


def test_the_child_is_judged_at_the_parents_weights_rounded():
    row = made("transform=round", "transform.bits=3")
    assert row["status"] == "done"
    parent = runs().loc[row["parent"]]
    assert parent["model"] == f"models/{row['parent']}.safetensors"
    weights = load_file(Path("there") / parent["model"])
    import own_line

    task = own_line.Line()
    x, y = next(iter(task.eval_batches("test")))

    def mse(change):
        first, second = change(weights["0.weight"]), change(weights["3.weight"])
        hidden = torch.relu(x @ first.T + weights["0.bias"])
        return float((hidden @ second.T + weights["3.bias"] - y).square().mean())

    assert parent["final_test"] == pytest.approx(mse(lambda weight: weight), rel=1e-5)
    assert row["final_test"] == pytest.approx(mse(lambda weight: rounded(weight, 3)), rel=1e-5)
    assert row["final_test"] != parent["final_test"]


def test_what_the_tables_say_of_a_child():
    row = made("transform=round", "transform.bits=3", "optim.clipping_type=none")
    parent = runs().loc[row["parent"]]
    assert (row["place"], row["method"], row["clipping_type"]) == ("weight", "round", "none")
    assert (parent["place"], parent["method"]) == ("gradient", "none")
    assert pd.isna(parent["transform"])
    assert json.loads(row["transform"]) == {"name": "round", "bits": 3}
    assert (row["steps"], row["seconds"]) == (parent["steps"], parent["seconds"])
    assert tables.read(Path("there"), "steps", runs=[row["run"]]).empty
    evals = tables.read(Path("there"), "evals", runs=[row["run"]])
    assert set(evals["step"]) == {12}
    assert list(zip(evals["split"], evals["metric"], strict=True)) == [
        ("val", "loss"),
        ("val", "mse"),
        ("test", "loss"),
        ("test", "mse"),
    ]
    assert make_plan(json.loads(row["overrides"])[2:], Path()).run == row["run"]


def test_ids_hold_parent_and_transform_and_nothing_that_is_not_used():
    ids = {
        plan("transform=round", "transform.bits=3").run,
        plan("transform=round", "transform.bits=4").run,
        plan("transform=round", "transform.bits=3", "seed=1").run,
        plan("transform=noisy").run,
        plan("transform=noisy", "transform.size=1").run,
        plan().run,
    }
    assert len(ids) == 6
    assert plan("transform=noisy", "transform.bits=3").run == plan("transform=noisy").run
    assert plan("transform.bits=3", "keep=model", "max_time=2h").run == plan().run
    assert plan("transform=round").parent.run == plan().run
    before = plan("transform=noisy").run
    Path("own_transform.py").write_text(OWN_TRANSFORM.replace("0.1", "0.2"))
    assert plan("transform=noisy", "transform.size=0.1").run != before


ORDERS = {
    "children first": [["transform=round,noisy", "transform.bits=2,3"], ["transform=none"]],
    "parents first": [["transform=none"], ["transform=round,noisy", "transform.bits=2,3"]],
    "all at once": [["transform=none,round,noisy", "transform.bits=2,3"]],
}


@pytest.mark.parametrize("order", ORDERS)
def test_methods_by_seeds_train_one_model_a_seed(order):
    for axes in ORDERS[order]:
        outcome = sweep("seed=0,1,2", *axes)
        assert outcome.is_complete, outcome
    found = runs()
    assert len(found) == 3 * (1 + 3)
    assert found["parent"].isna().sum() == 3
    # finished before anybody asked for their weights: these are made again
    assert trainings() == (6 if order == "parents first" else 3)
    children = found[found["parent"].notna()]
    assert set(children["parent"]) == set(found.index[found["parent"].isna()])
    assert (children.groupby("parent").size() == 3).all()
    assert sweep("seed=0,1,2", "transform=none,round,noisy", "transform.bits=2,3").is_complete
    assert trainings() == (6 if order == "parents first" else 3)


def test_two_sweeps_at_once_share_the_trainings(monkeypatch):
    monkeypatch.setenv("LINE_SECONDS", "0.02")
    code = (
        "import clipbench, sys\n"
        "if __name__ == '__main__':\n"
        f"    clipbench.sweep([*{RUN}, 'seed=0,1,2', 'transform=round', sys.argv[1]], '.')\n"
    )
    Path("script.py").write_text(code)
    started = [
        subprocess.Popen([sys.executable, "script.py", bits], stderr=subprocess.PIPE, text=True)
        for bits in ("transform.bits=2,3,4", "transform.bits=4,5")
    ]
    for process in started:
        _, printed = process.communicate(timeout=120)
        assert process.returncode == 0, printed
    assert trainings() == 3
    found = runs()
    assert len(found) == 3 + 3 * 4
    assert (found["status"] == "done").all()


def test_children_side_by_side_are_the_child_alone():
    asked = make_plans([*RUN, "transform=round,noisy", "transform.bits=2,3"], Path())
    make_run(asked[0].parent, never)
    for _ in train_group(asked):
        pass
    together = tables.read(Path("there"), "evals", runs=[each.run for each in asked])
    for each in asked:
        each.run_folder.path.mkdir(parents=True)
        each.run_folder.remove()
        make_run(each, never)
    alone = tables.read(Path("there"), "evals", runs=[each.run for each in asked])
    pd.testing.assert_frame_equal(alone, together, check_exact=True)


def test_weights_that_were_not_kept_are_made_again_and_the_row_stays():
    first = made()
    assert first["model"] is None
    before = dict(runs().loc[first["run"]])
    child = made("transform=round", "threads=2")  # the parent was made with one
    assert child["status"] == "done"
    after = dict(runs().loc[first["run"]])
    assert after.pop("model") == f"models/{first['run']}.safetensors"
    before.pop("model")
    assert pd.Series(after).equals(pd.Series(before))
    assert trainings() == 2
    assert not list(Path("there/.work").glob("*"))


@pytest.mark.parametrize("how", ["run", "sweep"])
def test_a_parent_that_comes_out_otherwise_fails_the_child_and_keeps_its_row(how):
    first = made()
    row = tables.row_of(Path("there"), first["run"])
    tables.write_rows(Path("there"), "runs", first["run"], [row | {"final": row["final"] * 1.001}])
    kept = Path(f"there/runs/{first['run']}.parquet").read_bytes()
    if how == "run":
        assert main(["run", "--config-dir", ".", *RUN, "transform=round"]) == 1
    else:
        outcome = sweep("transform=round", "seed=0,1")
        assert [each.run for each in outcome.failed] == [plan("transform=round").run]
        assert len(outcome.finished) == 2  # the other seed's
        assert ["Training it again gave final=" in mistake for mistake in outcome.mistakes] == [True]
    child = runs().loc[plan("transform=round").run]
    assert child["status"] == "failed"
    assert "Training it again gave final=" in child["error"]
    assert Path(f"there/runs/{first['run']}.parquet").read_bytes() == kept
    assert not Path(f"there/models/{first['run']}.safetensors").exists()


def test_a_parent_that_diverged_or_failed():
    diverged = made("transform=round", "task.explode_at=6")
    assert (diverged["status"], diverged["steps"], diverged["final_test"]) == ("diverged", 6, None)
    failed = made("transform=round", "task.fail_at=6")
    assert failed["status"] == "failed"
    assert failed["error"].startswith(f"The run that it starts from, {failed['parent']}, failed:")
    assert "the disk is on fire" in failed["error"]
    outcome = sweep("transform=round", "transform.bits=2,3", "task.fail_at=6")
    assert len(outcome.failed) == 3
    assert trainings() == 3  # a failed parent is tried again, once for both


def test_weights_that_are_damaged_are_set_aside_and_made_again():
    first = made("transform=round")
    path = Path("there/models") / f"{first['parent']}.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)
    with pytest.warns(Unreadable, match="is damaged and lies in"):
        child = made("transform=round", "transform.bits=2")
    assert child["status"] == "failed"
    assert f"trains {first['parent']}" in child["error"]
    assert made("transform=round", "transform.bits=2")["status"] == "done"
    assert trainings() == 2
    assert len(list(Path("there/set-aside").iterdir())) == 1


def test_weights_of_another_model_are_refused():
    first = made("transform=round")
    path = Path("there/models") / f"{first['parent']}.safetensors"
    weights = load_file(path)
    from clipbench.task.tensor_file import write_tensors

    write_tensors({f"other.{name}": value for name, value in weights.items()}, path)
    child = made("transform=round", "transform.bits=2")
    assert child["status"] == "failed"
    assert "the weights of another model" in child["error"]
    save_file(weights, path)  # without the hash that we write
    with pytest.warns(Unreadable, match="is damaged"):
        made("transform=round", "transform.bits=2")


def test_conditions_stand_in_the_tables_and_the_last_one_is_the_result():
    row = made("transform=noisy", "transform.size=0.5")
    evals = tables.read(Path("there"), "evals", runs=[row["run"]])
    of_test = evals[(evals["split"] == "test") & (evals["metric"] == "mse")].set_index("condition")["value"]
    assert list(of_test.index) == ["clean", "noisy"]
    assert of_test["clean"] == runs().loc[row["parent"]]["final_test"]
    assert of_test["noisy"] == row["final_test"] != of_test["clean"]
    again = made("transform=noisy", "transform.size=0.5", "transform.bits=3")
    assert again["run"] == row["run"]


def test_what_a_users_transform_raises_is_its_runs_failure_alone():
    asked = [plan("transform=noisy", "transform.size=2"), plan("transform=round"), plan("transform=noisy")]
    make_run(asked[0].parent, never)
    for _ in train_group(asked):
        pass
    found = runs().loc[[each.run for each in asked]]
    assert list(found["status"]) == ["failed", "done", "done"]
    assert "too much of it" in found["error"].iloc[0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("def apply(self, model, source):\n        yield ''\n        yield ''", "each once, got ''"),
        ("def apply(self, model, source):\n        yield 3", "got 3"),
        ("def apply(self, model, source):\n        return iter(())", "must yield at least once"),
    ],
)
def test_a_transform_that_breaks_the_contract_is_told_so(written, expected):
    head = OWN_TRANSFORM.split("    def apply")[0]
    Path("own_transform.py").write_text(f"{head}    {written}\n")
    row = made("transform=noisy")
    assert row["status"] == "failed"
    assert expected in row["error"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("Noisy(Transform)", "Noisy"), "must be a dataclass that inherits"),
        (('place = "weight"', 'place = "bias"'), "place must be weight or activation"),
        (("size: float", "length: float"), None),
    ],
)
def test_what_is_no_transform_is_said_before_training(change, expected, capsys):
    Path("own_transform.py").write_text(OWN_TRANSFORM.replace(*change).replace("self.size", "0.1"))
    code = main(["run", "--config-dir", ".", *RUN, "transform=noisy", "transform.bits=99"])
    assert code == 2
    assert "transform.bits must be a whole number from 1 to 16" in capsys.readouterr().err
    if expected:
        assert main(["run", "--config-dir", ".", *RUN, "transform=noisy"]) == 2
        assert expected in capsys.readouterr().err
    assert trainings() == 0


def test_a_parent_is_not_removed_without_its_children(capsys):
    child = made("transform=round")
    parent = child["parent"]
    assert main(["rm", "there", parent, "--yes"]) == 0
    assert f"Left alone: {parent} is what 1 run started from" in capsys.readouterr().out
    assert set(runs().index) == {child["run"], parent}
    assert main(["rm", "there", f"parent={parent}", "--yes"]) == 0
    assert set(runs().index) == {parent}
    made("transform=round")
    assert main(["rm", "there", "task=line", "--yes"]) == 0
    assert runs().empty
    assert not list(Path("there/models").iterdir())


def test_a_sweep_counts_what_its_runs_start_from(capsys):
    asked = make_plans([*RUN, "transform=round", "transform.bits=2,3", "seed=0,1"], Path())
    assert [each.parent is None for each in with_parents(asked)] == [True] * 2 + [False] * 4
    arguments = ["sweep", "--config-dir", ".", *RUN, "transform=round", "transform.bits=2,3", "seed=0,1"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "6 runs" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "4 runs and 2 that they start from, 0 of them finished already" in capsys.readouterr().out
    assert len(with_parents(asked)) == 4  # nothing is left that they could start from


def test_from_python():
    found = clipbench.run([*RUN, "transform=round"], config_dir=".")
    assert list(found["method"]) == ["round"]
    assert len(runs()) == 2


@pytest.mark.slow
@pytest.mark.ci
def test_a_launcher_makes_the_parents_first():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    asked = make_plans([*RUN, "transform=round", "transform.bits=2,3", "seed=0,1"], Path())
    outcome = launch(asked, ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], Path())
    assert outcome.is_complete
    assert trainings() == 2


def test_tails_at_kept_weights_do_not_train():
    row = made("keep=model")
    assert trainings() == 1
    before = {path: path.read_bytes() for path in Path("there/runs").iterdir()}
    with pytest.raises(UserError, match="has no finished run"):
        plan_of(Path("there"), "r000000000000")
    kept = measure_noise(plan_of(Path("there"), row["run"]), [12], 100, kept=True)
    assert trainings() == 1
    assert {path: path.read_bytes() for path in Path("there/runs").iterdir()} == before
    trained = measure_noise(plan("results=elsewhere"), [12], 100)
    assert trainings() == 2
    pd.testing.assert_frame_equal(kept, trained, check_exact=True)


def test_tails_of_a_finished_run_by_its_id(capsys):
    row = made("keep=model")
    assert main(["tails", "--from", row["run"], "results=there", "--batches", "100"]) == 0
    assert "Step 12:" in capsys.readouterr().out
    assert trainings() == 1
    assert main(["tails", "--from", row["run"], "results=there", "seed=1"]) == 2
    assert "Leave out seed=1." in capsys.readouterr().err
    Path(f"there/models/{row['run']}.safetensors").unlink()
    assert main(["tails", "--from", row["run"], "results=there", "--batches", "120"]) == 2
    assert "keep=model trains it again and keeps them" in capsys.readouterr().err


def test_a_retraining_whose_time_is_over_goes_on_with_more_of_it(monkeypatch, capsys):
    first = made()
    monkeypatch.setenv("LINE_SECONDS", "0.1")
    command = ["run", "--config-dir", ".", *RUN, "transform=round"]
    assert main([*command, "max_time=0.3s"]) == 2
    assert "reached max_time=0.3s at step" in capsys.readouterr().err
    assert runs().loc[first["run"]]["status"] == "done"
    parent = plan("transform=round").parent
    step = parent.run_folder.checkpoint_step()
    assert 0 < step < 12
    assert plan("transform=round").run not in runs().index  # not failed: it can go on
    monkeypatch.setenv("LINE_SECONDS", "0")
    assert main(command) == 0
    assert runs().loc[first["run"]]["model"] == f"models/{first['run']}.safetensors"
    assert list(runs()["status"]) == ["done", "done"]


def test_a_disk_that_refuses_weights_is_no_failure_of_the_child(capsys):
    made()
    place = Path("there/models")
    place.write_text("in the way")
    assert main(["run", "--config-dir", ".", *RUN, "transform=round"]) == 2
    assert plan("transform=round").run not in runs().index
    place.unlink()
    assert main(["run", "--config-dir", ".", *RUN, "transform=round"]) == 0


def test_a_file_that_chooses_the_transform():
    Path("extra").mkdir()
    Path("extra/x.yaml").write_text("# @package _global_\ndefaults: [override /transform: round]\n")
    asked = plan("+extra=x")
    assert asked.transform is not None
    assert (asked.parent.run, asked.parent.transform) == (plan().run, None)


def test_a_child_keeps_nothing_and_is_finished(capsys):
    row = made("transform=round", "keep=model")
    assert is_finished(plan("transform=round", "keep=model"))
    assert main(["tails", "--from", row["run"], "results=there"]) == 2
    assert f"clipbench tails --from {row['parent']}" in capsys.readouterr().err


def test_a_state_that_cannot_be_kept_is_found_before_the_first_step(capsys):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass

    plan()  # the current folder is importable from now on
    import counted

    counted.Line.model = lambda self, rng: nn.Sequential(Odd(5, 1))
    assert main(["run", "--config-dir", ".", *RUN, "keep=model"]) == 2
    assert "only tensors can be" in capsys.readouterr().err
    assert trainings() == 0


@pytest.mark.parametrize("word", ["transform.name=hey", "transform._target_=clipbench.transform.Round"])
def test_a_transform_is_chosen_by_its_name(word, capsys):
    assert main(["run", "--config-dir", ".", *RUN, word]) == 2
    assert "a transform is chosen by its name" in capsys.readouterr().err


def test_children_of_a_run_whose_time_is_over_wait(monkeypatch, capsys):
    monkeypatch.setenv("LINE_SECONDS", "0.1")
    assert main(["run", "--config-dir", ".", *RUN, "transform=round", "max_time=0.3s"]) == 2
    assert "it goes on with a larger max_time" in capsys.readouterr().err
    assert list(runs()["status"]) == ["timeout"]
    monkeypatch.setenv("LINE_SECONDS", "0")
    assert main(["run", "--config-dir", ".", *RUN, "transform=round"]) == 0
    assert list(runs()["status"]) == ["done", "done"]

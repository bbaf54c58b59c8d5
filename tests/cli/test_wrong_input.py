"""Input that is no misspelling: files of another kind, words of another grammar, modules that end the
program, values that no table holds. Exit 2 and one line before anything trains; a user's own error with its
own lines.
"""

import os
import shlex
import sys
from pathlib import Path

import pytest

from clipbench.cli.main import main
from clipbench.errors import UserError
from clipbench.record.files import check_writable
from clipbench.runs import ending, lockstep
from clipbench.runs.events import Ended, Refused
from clipbench.runs.plan import make_plan
from clipbench.sweeps import scheduler
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.scheduler import make_runs

LINE = "name: {name}\n_target_: {target}\nbatch_size: ${{batch_size}}\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
for before, after in ("ab", "bc", "cd", "de", "ef"):
    BOMB += f"{after}: &{after} [{','.join(10 * ['*' + before])}]\n"

MODULES = {
    "exits_at_import": "import sys\nsys.exit(0)\n",
    "raises_at_import": "import json\njson.loads('no json')\n",
    "no_python": "def (\n",
    "quits": """
import sys
from dataclasses import dataclass
from clipbench.optim import Rule
from wrong_line import Line

@dataclass(frozen=True)
class Made(Rule):
    clipping_level: float = 1.0
    def __post_init__(self):
        sys.exit(0)

@dataclass(frozen=True)
class Called(Rule):
    clipping_level: float = 1.0
    def __call__(self, grads, params, state, rng):
        sys.exit(0)

class Init(Line):
    def __init__(self, batch_size=16):
        sys.exit()

class Raising(Line):
    def __init__(self, batch_size=16):
        raise KeyError("where")

class Model(Line):
    def model(self, rng):
        sys.exit(0)

class NoText(Line):
    data = 5

class Batches(Line):
    def train_batches(self, rng):
        sys.exit(0)
        yield
""",
}

TASKS = {
    "line": "wrong_line.Line",
    "exits": "exits_at_import.Task",
    "raises": "raises_at_import.Task",
    "no_python": "no_python.Task",
    "init": "quits.Init",
    "raising": "quits.Raising",
    "model": "quits.Model",
    "batches": "quits.Batches",
    "no_text": "quits.NoText",
    "no_class": "wrong_line.os",
    "no_object": "wrong_line",
}

FILES = {
    "task/no_name.yaml": "_target_: wrong_line.Line\n",
    "task/no_target.yaml": "name: line\n",
    "task/empty.yaml": "",
    "task/a_list.yaml": "- a\n",
    "task/a_word.yaml": "hello\n",
    "task/latin.yaml": "name: größe\n".encode("latin-1"),
    "task/number.yaml": LINE.format(name=5, target="wrong_line.Line"),
    "task/number_target.yaml": LINE.format(name="x", target=5),
    "task/torn.yaml": "name: [\n",
    "task/bomb.yaml": BOMB + LINE.format(name="x", target="wrong_line.Line"),
    "task/circle.yaml": "a: &a [*a]\n",
    "task/with_bomb.yaml": "defaults: [bomb]\n" + LINE.format(name="x", target="wrong_line.Line"),
    "task/with_pipe.yaml": "defaults: [/optim/pipe]\n" + LINE.format(name="x", target="wrong_line.Line"),
    "task/nameless_defaults.yaml": "defaults: [{'@': x}]\n" + LINE.format(name="x", target="wrong_line.Line"),
    "task/odd_defaults.yaml": "defaults: 5\n" + LINE.format(name="x", target="wrong_line.Line"),
    "optim/alone.yaml": "name: alone\n_target_: torch.optim.SGD\n",
    "optim/function.yaml": "defaults: [clipping, _self_]\nname: x\n_target_: math.sqrt\n",
    "optim/module.yaml": "defaults: [clipping, _self_]\nname: x\n_target_: torch.optim\n",
    "optim/nowhere.yaml": "defaults: [clipping, _self_]\nname: x\n_target_: nowhere.Adam\n",
    "scale/unsaid.yaml": "# @package _global_\nsteps: 5\n",
    "experiment/bomb.yaml": BOMB,
    "study/bomb.yaml": BOMB,
}
PIPES = ("task/pipe.yaml", "optim/pipe.yaml", "experiment/pipe.yaml", "study/pipe.yaml")


def furnish(folder):
    for name, target in TASKS.items():
        place = folder / "task" / f"{name}.yaml"
        place.parent.mkdir(exist_ok=True)
        place.write_text(LINE.format(name=name, target=target))
    for name, content in FILES.items():
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in PIPES:
        os.mkfifo(folder / name)
    (folder / "wrong_line.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("wrong")
    furnish(made)
    return made


@pytest.fixture
def own(folder, monkeypatch):
    """The working directory is a user's folder, in which nothing was made."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def said(line, capsys):
    """What a command that must end with 2 says."""
    command, *words = shlex.split(line)
    code = main([command, "--config-dir", ".", *words])
    error = capsys.readouterr().err
    assert code == 2, error
    assert not Path("results/runs").exists()
    return error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run task=no_name", "its file has no `name`. Write into task/no_name.yaml, as name: no_name"),
        ("run task=no_target", "its file has no `_target_`. Write into task/no_target.yaml"),
        ("run task=empty", "its file has no `name`"),
        ("run task=line scale=unsaid", "its file has no `scale`"),
        ("run task=a_list", "task/a_list.yaml must be a mapping, lines of key: value, and is a list"),
        ("run task=a_word", "task/a_word.yaml must be a mapping"),
        ("run task=latin", "task/latin.yaml is not UTF-8 (byte 8). Save it in that encoding"),
        ("run task=number", "task.name must be a name"),
        ("run task=number_target", "task._target_ must be the path of a class"),
        ("run task=torn", "task/torn.yaml cannot be read, it is no YAML"),
        ("run task=bomb", "task/bomb.yaml stands for more than 100000 values"),
        ("run task=circle", "task/circle.yaml is nested too deeply, or holds itself"),
        ("run task=with_bomb", "task/bomb.yaml stands for more than 100000 values"),
        ("run task=pipe", "task/pipe.yaml is no regular file"),
        ("run task=with_pipe", "optim/pipe.yaml is no regular file"),
        ("run task=odd_defaults", "defaults must be a list"),
        ("sweep +experiment=pipe", "experiment/pipe.yaml is no regular file"),
        ("sweep +experiment=bomb", "experiment/bomb.yaml stands for more than"),
        ("study study=pipe", "study/pipe.yaml is no regular file"),
        ("study study=bomb", "study/bomb.yaml stands for more than"),
        ("run task=no_class", "must be a class that inherits clipbench.task.Task"),
        ("run task=no_object", "names no object of a module. Write 'module:Class'"),
        ("run task=line optim=alone", "its file says nothing of clipping_type"),
        ("run task=line optim=function", "'math.sqrt' must be a class that inherits torch.optim.Optimizer"),
        ("run task=line optim=module", "'torch.optim' must be a class that inherits"),
        ("run task=line optim=nowhere", "there is no module 'nowhere'"),
        (
            "run task=line sweep=null",
            "sweep is a group of keys, a mapping, got None. Set them one by one: sweep.",
        ),
        ("run task=line restart=5", "restart is a group of keys"),
        ("run task=line 'tag={stdy: x}'", "Unknown key 'tag.stdy'. Did you mean 'study'?"),
        ("run task=line optim.clip=5", "optim.clip must be null or a mapping"),
        ("run task=line optim.betas=[0.9]", "It was given betas=[0.9]"),
        ("run task=line max_loss=null", "max_loss must be a number above 0, got None. inf:"),
        ("run task=line seed=9223372036854775808", "seed: a whole number must lie between"),
        ("run task=line tag.trial=-9223372036854775809", "tag.trial: a whole number must lie between"),
        ("run task=line optim.clip.window=1" + 400 * "0", "optim.clip.window: a whole number must lie"),
        ("run task=line seed=1" + 5000 * "0", "Cannot read 'seed=1000"),
        ("run task=line steps=" + 3000 * "[" + 3000 * "]", "Cannot read 'steps=[[["),
        ("run task=line task.name=5", "task.name must be a name"),
        ("run task=line \"task.name='a/b'\"", "task.name must be a name"),
        ("run task=line optim.name=null", "optim.name must be a name"),
        ("run task=line optim.name=[a]", "optim.name must be a name"),
        ("run task=line seed=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("sweep task=line seed=range(0)", "has no values"),
        ("sweep task=line seed=range(0,1,0)", "has no values"),
        ("sweep task=line seed=range(nan)", "has no values"),
        ("sweep task=line seed=range(0,inf)", "has more than 100000 values"),
        ("sweep task=line 'seed=shuffle(range(0,100000000000))'", "has more than 100000 values"),
        ("sweep task=line seed=range(1000) optim.lr=range(1,1000)", "This grid has 999000 runs"),
        ("sweep task=line optim.lr=interval(0,1)", "an interval has no list of values"),
        ("sweep task=glob(*)", "glob is not taken"),
        ("run task=line seed=[range(3)]", "several values stand outside of brackets"),
        ("run task=line seed@here=1", "an @ behind a key"),
        ("run task=line =5", "'=5' has no key before the ="),
        ("run task=line =", "'=' has no key before the ="),
        ("run task=line seed=int(x)", "ValueError while evaluating 'int(x)'"),
        ("run task=line results=a=b", "quoted twice, for the shell and for us: \"results='a=b'\""),
        ("run task=line results=a(b", "\"results='a(b'\""),
        ("run task=line results=~me", "\"results='~me'\""),
        ("run task=line task_scale=cola_mini", "task and scale choose it. Write scale=NAME"),
        ("run task=line \"results='a\udcffb'\"", "it is not UTF-8, or holds a NUL"),
        ("run task=line threads=99999999999", "threads must be at most 1024"),
        ("run task=line 'optim.clip={1: 2}'", "optim.clip: a setting's name is a text, got 1"),
        ("run task=nameless_defaults", "of its defaults names no group"),
        ("run task=line results=größe", "\"results='größe'\""),
    ],
)
def test_it_is_one_line_and_exit_code_2(own, capsys, line, message):
    error = said(line, capsys)
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run task=no_text", "NoText.data must be a text that says which data, got 5"),
        ("run task=line batch_size=200", "Line has no batch in an epoch (steps_per_epoch=0.0)"),
    ],
)
def test_a_task_that_could_not_be_recorded_is_not_trained(own, capsys, line, message):
    *_, last = said(line, capsys).splitlines()
    assert message in last
    assert "step " not in last


def test_what_is_quoted_as_the_message_says_is_read(own):
    plan = make_plan(["task=line", "results='a=b (c) ~größe'"], own)
    assert plan.settings.results == "a=b (c) ~größe"


TYPED = "clipbench run --config-dir . ta"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--config-dir", "."],
        ["run", "--config-dir", ".", "--help"],
        ["complete", "bash", str(len(TYPED)), TYPED],
    ],
)
def test_what_is_only_shown_passes_over_pipes_and_other_encodings(own, capsys, words):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "ending", "own_line"),
    [
        ("run task=exits", "sys.exit", "exits_at_import.py"),
        ("sweep task=exits", "sys.exit", "exits_at_import.py"),
        ("study task=exits", "sys.exit", "exits_at_import.py"),
        ("check task=exits", "sys.exit", "exits_at_import.py"),
        ("prepare task=exits", "sys.exit", "exits_at_import.py"),
        ("run task=line optim.clipping_type=exits_at_import:Rule", "sys.exit", "exits_at_import.py"),
        ("study task=line optim.clipping_type=exits_at_import:Rule", "sys.exit", "exits_at_import.py"),
        ("check exits_at_import:Rule", "sys.exit", "exits_at_import.py"),
        ("run task=raises", "JSONDecodeError", "raises_at_import.py"),
        ("check raises_at_import:Rule", "JSONDecodeError", "raises_at_import.py"),
        ("run task=no_python", "SyntaxError", "no_python.py"),
        ("run task=line optim.clipping_type=quits:Made", "sys.exit", "quits.py"),
        ("run task=line optim.clipping_type=quits:Called", "sys.exit", "quits.py"),
        ("check quits:Made", "sys.exit", "quits.py"),
        ("check quits:Called", "sys.exit", "quits.py"),
        ("run task=init", "sys.exit", "quits.py"),
        ("check quits:Init", "sys.exit", "quits.py"),
        ("run task=raising", "KeyError", "quits.py"),
        ("prepare task=raising", "KeyError", "quits.py"),
        ("run task=model", "sys.exit", "quits.py"),
        ("run task=batches", "sys.exit", "quits.py"),
        ("check quits:Batches", "sys.exit", "quits.py"),
        ("tails task=batches --batches 100", "sys.exit", "quits.py"),
    ],
)
def test_a_users_module_is_shown_with_its_own_lines_alone(own, capsys, line, ending, own_line):
    error = said(line, capsys)
    assert f"ended with {ending}. Its own lines:" in error
    assert own_line in error
    assert f"{os.sep}clipbench{os.sep}" not in error
    assert "importlib" not in error


def test_a_table_that_cannot_be_put_in_place_is_found_first(tmp_path, own, capsys):
    """Each in its own folder: they may lie on other file systems, and some may be read-only."""
    for name in ("runs", "steps", "evals", ".work"):
        results = tmp_path / name
        results.mkdir()
        (results / name).write_text("in the way")
        with pytest.raises(UserError, match=f"Cannot write to the results folder .*/{name}: .*results=DIR"):
            check_writable(results)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "evals").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="Cannot write to the results folder"):
        check_writable(tmp_path / "link")
    plan = make_plan(["task=line", f"results={tmp_path}/taken"], own)
    (plan.results / "runs" / f"{plan.run}.parquet").mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder, where the run's file is to be"):
        check_writable(plan.results, [plan.run])


def test_moving_a_file_into_place_is_tried_where_the_tables_lie(tmp_path, monkeypatch):
    def refuse(old, new):
        if Path(new).parent.name == "runs":
            raise OSError(18, "Invalid cross-device link")
        return rename(old, new)

    rename = os.rename
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="runs: Invalid cross-device link"):
        check_writable(tmp_path)
    assert list(tmp_path.rglob("*.tmp")) == []


GROUP = ["task=line", "steps=4", "eval_every=4", "optim.clipping_type=none,norm,auto"]


def test_a_run_that_cannot_be_built_or_recorded_leaves_its_group_alone(own, tmp_path, monkeypatch):
    plans = make_plans([*GROUP, f"results={tmp_path}"], own)
    plans.append(make_plan(["task=line", "steps=4", "optim.clip_exempt=[no*]", f"results={tmp_path}"], own))
    write = ending.record

    def record(plan, *facts):
        if plan is plans[1]:
            raise OverflowError("Python int too large to convert to C long")
        return write(plan, *facts)

    monkeypatch.setattr(ending, "record", record)
    events = list(lockstep.train_group(plans))
    mistakes = {event.run: event.mistake for event in events if isinstance(event, Refused)}
    rows = {event.run: event.row["status"] for event in events if isinstance(event, Ended)}
    assert rows == {plans[0].run: "done", plans[2].run: "done"}
    assert set(mistakes) == {plans[1].run, plans[3].run}
    assert "cannot be recorded: Python int too large" in mistakes[plans[1].run]
    assert "'no*' matches no parameter's name" in mistakes[plans[3].run]


@pytest.mark.slow
def test_a_failure_that_cannot_be_recorded_does_not_stop_a_sweep(own, tmp_path, monkeypatch):
    def refuse(plan, error):
        raise OverflowError("too large")

    monkeypatch.setattr(scheduler, "record_failure", refuse)
    words = ["task=line", "steps=4", "optim.clipping_type=quits:Called,none", "sweep.workers_per_device=1"]
    outcome = make_runs(make_plans([*words, "seed=0", f"results={tmp_path}"], own))
    assert list(outcome.statuses.values()).count("done") == 1
    assert [str(mistake) for mistake in outcome.mistakes if "cannot be recorded: too large" in mistake]

"""Whatever value a key is given, a command ends with 0 or 2 and one line: never in a traceback of ours."""

import itertools
from functools import lru_cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import clipbench.api
from clipbench.cli.main import main
from clipbench.cli.messages import INTERRUPTED, MISTAKE
from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.runs import config, lockstep
from clipbench.runs.events import Ended, Refused
from clipbench.studies.contest import contests

VALUES = {
    "null": "null",
    "an empty list": "[]",
    "a list": "[1,x]",
    "an empty mapping": "{}",
    "a mapping": "{a: 1}",
    "a text": "text",
    "nothing": "",
    "an empty text": "''",
    "true": "true",
    "negative": "-1",
    "zero": "0",
    "infinite": "inf",
    "no number": "nan",
    "beyond int64": "9223372036854775808",
    "beyond a float": "1e400",
    "four hundred digits": "1" + 400 * "0",
    "an interpolation": "${nowhere}",
    "several": "1,2",
}
EACH = 1  # of the values, for each key in the quick test: which one rotates from key to key

OPTIMIZERS = config.options("optim", None)
OURS = [f"{task}_{scale}" for task in ("cola", "imagenet", "voc") for scale in ("mini", "full")]


def keys_below(node, prefix=""):
    for key in node:
        yield f"{prefix}{key}"
        child = node[key]
        if isinstance(child, DictConfig):
            yield from keys_below(child, f"{prefix}{key}.")


def keys_of(*words):
    """Every key that a run of these groups has, groups among them."""
    composed = OmegaConf.to_container(config._compose(words, None), resolve=True)
    return list(keys_below(OmegaConf.create(composed)))


def rotated(cases):
    """EACH of the values of each key: all values meet many keys."""
    names = itertools.cycle(VALUES)
    return [(words, key, next(names)) for words, key in cases for _ in range(EACH)]


def everything(cases):
    return [(words, key, name) for words, key in cases for name in VALUES]


def cases_of_runs():
    """Keys of run.yaml with a task of a few points; of each optimizer; of our tasks at both scales."""
    found = [(("task=line",), key) for key in keys_of("task=cola", "optim=adamw") if key != "task.name"]
    found += [(("task=line",), key) for key in ("task.name", "task.explode_at", "optim.clip.window")]
    shared = keys_of("optim=adamw")
    for name in OPTIMIZERS:
        own = [key for key in keys_of(f"optim={name}") if key.startswith("optim.") and key not in shared]
        found += [(("task=line", f"optim={name}"), key) for key in own]
    for name in OURS:
        task, scale = name.split("_")
        own = [key for key in keys_of(f"task={task}", f"scale={scale}") if key.startswith("task.")]
        found += [((f"task={task}", f"scale={scale}"), key) for key in own]
    return found


def cases_of_studies():
    content = OmegaConf.load(config.find_file("study", "quick", None))
    return [((), f"study.{key}") for key in ("nothing", *keys_below(content))]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder with a task of a few points; everything of a run is done but training."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: fuzzed_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\n"
    )
    source = Path(__file__).parents[1].joinpath("tiny.py").read_text()
    (tmp_path / "fuzzed_line.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, "_compose", lru_cache(config._compose))  # of the same files each time
    monkeypatch.setattr(lockstep, "_train_members", lambda *arguments: iter(()))
    monkeypatch.setattr(clipbench.api, "make_run", until_training)
    return tmp_path


def until_training(plan, interrupted, sink):
    """Where the data of a task of ours are far away or long in coming, only until its class is called."""
    if plan.settings.task.name != "line" and not plan.settings.task.target.startswith("fuzzed_line"):
        lockstep.build_task(plan.settings, lockstep.find_device(plan.settings.device))
        return None
    for event in lockstep.train_group([plan], never):
        if isinstance(event, Refused):
            raise UserError(event.mistake)
        assert not isinstance(event, Ended), event.row["error"]
    return None


def ends_well(words, capsys):
    """2 with a line that says why, or as far as training."""
    code = main(["run", "--config-dir", ".", *words])
    said = capsys.readouterr().err
    assert code in (MISTAKE, INTERRUPTED), said
    assert "Traceback" not in said
    if code == MISTAKE:
        last = said.splitlines()[-1]
        assert last.startswith("clipbench: ")
        assert len(last) < 4000


def try_runs(cases, capsys):
    for words, key, name in cases:
        ends_well([*words, f"{key}={VALUES[name]}"], capsys)


def try_studies(cases):
    refused = 0
    for words, key, name in cases:
        try:
            for contest in contests([*words, f"{key}={VALUES[name]}"]):
                assert contest.draws
        except UserError:
            refused += 1
    assert refused


def test_a_share_of_all_values_at_all_keys_of_a_run(here, capsys):
    try_runs(rotated(cases_of_runs()), capsys)


def test_a_share_of_all_values_at_all_keys_of_a_study(here):
    try_studies(rotated(cases_of_studies()))


@pytest.mark.slow
def test_every_value_at_every_key(here, capsys):
    try_runs(everything(cases_of_runs()), capsys)
    try_studies(everything(cases_of_studies()))

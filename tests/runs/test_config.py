"""Words become settings; a wrong word gets one message that says what is allowed; the same settings have the
same id.
"""

import math

import pytest
from omegaconf import OmegaConf

from clipbench.errors import UserError
from clipbench.runs.config import load, roots
from clipbench.runs.identity import fingerprint
from clipbench.runs.lockstep import group_key
from clipbench.runs.plan import make_plan
from clipbench.sweeps.grid import expand


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optim.clpping_type=auto"],
            r"Unknown key 'optim.clpping_type'\. Did you mean 'optim.clipping_type'\?",
        ),
        (
            ["+optim.clpping_type=auto"],
            r"Unknown key 'optim.clpping_type'\. Did you mean 'optim.clipping_type'\?",
        ),
        (["++optim.clpping_type=auto"], r"Unknown key 'optim.clpping_type'"),
        (["+optim.lr=1"], r"keys are neither added nor deleted here\. Write optim.lr=VALUE"),
        (["~optim.lr"], "neither added nor deleted"),
        (["sed=1"], r"Unknown key 'sed'\. Did you mean 'seed'\?"),
        (["hydra.run.dir=x"], "Unknown key 'hydra.run.dir'"),
        (
            ["task=colla"],
            r"Unknown task 'colla'\. Did you mean 'cola'\? Known: adding, cola, imagenet, .*"
            r"--config-dir DIR with DIR/task/colla.yaml",
        ),
        (
            ["optim=sdg"],
            r"Unknown optim 'sdg'\. Did you mean 'sgd'\? "
            r"Known: acclip, adam, adamw, lion, muon, sgd, spam, sstm, stable_spam",
        ),
        (["scale=maxi"], r"Unknown scale 'maxi'\..* Known: full, mini"),
        (["task.data=x"], r"Unknown key 'task.data'\. It is known at scale=full"),
        (["steps=0"], "steps must be a whole number of at least 1, got 0"),
        (["steps=2.5"], "steps must be a whole number of at least 1, got 2.5"),
        (["steps=many"], "got 'many'"),
        (["steps=true"], "got True"),
        (["steps=inf"], "got inf"),
        (["seed=-1"], "seed must be a whole number of at least 0"),
        (["seed=0,1"], "`clipbench sweep` runs them all"),
        (["schedule=cosin"], r"must be one of constant, cosine, linear, got 'cosin'\. Did you mean 'cosine'"),
        (["precision=fp16"], "must be one of fp32, bf16"),
        (["optim.lr=fast"], "optim.lr must be a number above 0, got 'fast'"),
        (["optim.lr=0"], "optim.lr must be a number above 0"),
        (["nonsense"], "Cannot read 'nonsense'. Write key=value"),
        (["optim.betas=[0.9"], "Cannot read"),
    ],
)
def test_a_wrong_word_gets_one_clear_message(words, message):
    with pytest.raises(UserError, match=message):
        load(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.clipping_type=atuo"], "Did you mean 'auto'"),
        (["optim.clipping_level=0"], "clipping_level must be above 0"),
        (["optim.clipping_level=-1"], "clipping_level must be above 0"),
        (["optim.p_autoclip=1.5"], "p_autoclip is a fraction"),
        (["optim.beta=0"], "beta must lie strictly between 0 and 1"),
        (
            ["optim.clip.windw=3", "optim.clipping_type=auto"],
            "Unknown setting 'windw'.* Did you mean 'window'.* beta|windw",
        ),
        (["optim.clip.window=0", "optim.clipping_type=auto"], "window must be a whole number"),
        (["optim.clipping_type=nowhere:Rule"], "no module 'nowhere'"),
    ],
)
def test_a_wrong_clipping_setting_too(words, message):
    with pytest.raises(UserError, match=message):
        make_plan(words)


def test_learning_rates_are_per_task_and_optimizer():
    cola, voc = load(["task=cola", "optim=sgd"]), load(["task=voc", "optim=adam"])
    assert cola.optim.lr == cola.task.lr["sgd"]
    assert voc.optim.lr == voc.task.lr["adam"]
    assert load(["optim.lr=0.5"]).optim.lr == 0.5


def test_what_a_task_needs_at_a_scale_wins_over_the_defaults_and_the_command_line_over_both():
    assert load(["task=cola", "scale=full"]).steps != load(["task=cola"]).steps
    assert load(["task=cola", "scale=full", "steps=7"]).steps == 7


def test_infinity_is_a_number_here_and_text_in_json():
    settings = load(["optim.clipping_level=inf"])
    assert math.isinf(settings.optim.clipping_level)
    assert '"clipping_level": "inf"' in settings.as_json()


def test_a_sweep_is_the_product_of_its_axes():
    assert expand(["task=cola", "seed=range(2)", "optim.clipping_type=none,norm"]) == [
        ["task=cola", "seed=0", "optim.clipping_type=none"],
        ["task=cola", "seed=0", "optim.clipping_type=norm"],
        ["task=cola", "seed=1", "optim.clipping_type=none"],
        ["task=cola", "seed=1", "optim.clipping_type=norm"],
    ]


def run_id(*words, config_dir=None):
    return make_plan(words, config_dir).run


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["optim.clipping_level=1"], ["optim.clipping_level=1.0"]),
        (["optim.clipping_level=null"], ["optim.clipping_level=1"]),
        (["optim.clipping_type=auto"], ["optim.clipping_type=auto_clip"]),
        (
            ["optim.clipping_type=none", "optim.clipping_level=1"],
            ["optim.clipping_type=none", "optim.clipping_level=2"],
        ),
        (["optim.clipping_type=norm", "optim.beta=.1"], ["optim.clipping_type=norm", "optim.beta=.9"]),
        (["optim.clipping_type=auto"], ["optim.clipping_type=auto", "optim.clip.window=10000"]),
        (["device=cpu", "threads=1", "results=a"], ["device=auto", "threads=2", "results=b"]),
        (
            ["task=imagenet", "scale=full", "task.workers=0"],
            ["task=imagenet", "scale=full", "task.workers=4"],
        ),
    ],
)
def test_the_same_run_has_one_id(one, other):
    assert run_id(*one) == run_id(*other)


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1"],
        ["optim.clipping_level=2"],
        ["optim.lr=3e-4"],
        ["steps=9"],
        ["optim=sgd"],
        ["batch_size=8"],
        ["precision=bf16"],
        ["warmup=3"],
    ],
)
def test_another_run_has_another_id(words):
    assert run_id(*words) != run_id()


def test_a_data_folder_counts_by_its_content_wherever_it_lies(tmp_path):
    for name, text in (("a", "one"), ("b", "one"), ("c", "three")):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x.tsv").write_text(text)
    ids = [run_id("scale=full", f"task.data={tmp_path / name}") for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    (tmp_path / "a" / "processed").mkdir()  # what a loader leaves there
    (tmp_path / "a" / "processed" / "data.pt").write_text("copy")
    assert run_id("scale=full", f"task.data={tmp_path / 'a'}") == ids[0]
    assert fingerprint("bert-base-uncased") == "bert-base-uncased"


OWN_TASK = "_target_: {module}.Line\nname: {module}\nbatch_size: ${{batch_size}}\n"


def own_folder(tmp_path, module, monkeypatch):
    """A user's folder: a task file and its YAML."""
    from pathlib import Path

    (tmp_path / "task").mkdir()
    (tmp_path / "task" / f"{module}.yaml").write_text(OWN_TASK.format(module=module))
    (tmp_path / f"{module}.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return tmp_path


def test_a_users_own_task_is_found_and_its_source_is_part_of_the_id(tmp_path, monkeypatch):
    folder = own_folder(tmp_path, "own_source", monkeypatch)
    first = run_id("task=own_source", config_dir=folder)
    source = folder / "own_source.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert run_id("task=own_source", config_dir=folder) != first


def test_a_task_without_learning_rates_leaves_them_to_the_optimizer(tmp_path, monkeypatch):
    folder = own_folder(tmp_path, "own_lr", monkeypatch)
    assert load(["task=own_lr"], folder).optim.lr is None


def test_a_scale_that_a_task_does_not_have_is_an_error_never_the_mini_one(tmp_path, monkeypatch):
    folder = own_folder(tmp_path, "own_scale", monkeypatch)
    with pytest.raises(
        UserError, match=r"Task 'own_scale' has no scale 'full'\. Write task_scale/own_scale_full.yaml"
    ):
        load(["task=own_scale", "scale=full"], folder)


def test_a_config_dir_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--config-dir .*nowhere is not a folder"):
        load([], tmp_path / "nowhere")


def test_ways_to_compute_are_part_of_the_identity_where_they_are_on():
    plain = make_plan(["task=reddit"])
    assert make_plan(["task=reddit", "compile=false", "channels_last=false"]).run == plain.run
    others = {
        make_plan(["task=reddit", word]).run
        for word in ("compile=true", "channels_last=true", "precision=bf16")
    }
    assert len(others | {plain.run}) == 4
    with pytest.raises(UserError, match="compile must be true or false, got 'yes please'"):
        make_plan(["task=reddit", "compile='yes please'"])


def test_compiled_runs_do_not_stand_side_by_side():
    one, other = (make_plan(["task=reddit", f"optim.clipping_type={name}"]) for name in ("none", "norm"))
    assert group_key(one) == group_key(other)
    one, other = (
        make_plan(["task=reddit", f"optim.clipping_type={name}", "compile=true"]) for name in ("none", "norm")
    )
    assert group_key(one) != group_key(other)


def test_every_optimizer_has_a_learning_rate_of_its_own_at_every_scale():
    """Or it would run at its class's default, whatever the task."""
    (conf,) = roots(None)
    optimizers = {path.stem for path in (conf / "optim").glob("*.yaml")} - {"clipping"}
    for path in (conf / "task_scale").glob("*.yaml"):
        assert set(OmegaConf.load(path).task.lr) == optimizers, path

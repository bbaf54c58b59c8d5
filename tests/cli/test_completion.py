"""TAB: what is offered where, in the shells themselves too."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from clipbench.cli.commands import COMMANDS, SHELLS
from clipbench.cli.completion import answer, split
from clipbench.cli.keys import FOLDERS
from clipbench.cli.main import main
from clipbench.optim import RULES, TIED
from clipbench.record.tables import SCHEMAS
from clipbench.runs.settings import CHOICES

TASKS = ("adding", "cola", "imagenet", "lm", "reber", "reddit", "voc")
OPTIMIZERS = ("acclip", "adam", "adamw", "lion", "muon", "sgd", "spam", "sstm", "stable_spam")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder where a user works: a task and an experiment of their own in mine/, and results/."""
    (tmp_path / "mine" / "task").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "line.yaml").write_text(
        "# Points near a plane\nname: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\n"
        "noise:\n  kind: normal # or heavy\n"
    )
    (tmp_path / "mine" / "experiment").mkdir()
    (tmp_path / "mine" / "experiment" / "wide.yaml").write_text("arms:\n  - [optim=sgd]\n")
    (tmp_path / "results" / "runs").mkdir(parents=True)
    (tmp_path / "results" / "runs" / "r0123456789ab.parquet").touch()
    (tmp_path / "my data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def offered(here, capsys):
    """{candidate: what is said of it} for a line with its cursor at the bar."""

    def ask(line):
        before, after = line.split("|")
        assert main(["complete", "fish", str(len(before)), before + after]) == 0
        return dict(
            answer.split("\t") if "\t" in answer else (answer, "")
            for answer in capsys.readouterr().out.splitlines()
        )

    return ask


def test_the_commands_are_those_that_there_are(offered, capsys):
    assert main(["nothing"]) == 2
    known = re.search(r"Known: (.*)\. See", capsys.readouterr().err)[1].split(", ")
    assert set(offered("clipbench |")) == set(known)
    assert set(offered("clipbench r|")) == {"run", "rm"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_are_those_of_the_commands_help(offered, capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    known = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert known
    assert set(offered(f"clipbench {command} -|")) == known


@pytest.mark.parametrize(("task", "scale", "optim"), [("cola", "mini", "adamw"), ("voc", "full", "sgd")])
def test_the_keys_are_those_of_the_configuration(offered, task, scale, optim):
    words = [f"task={task}", f"scale={scale}", f"optim={optim}"]
    with initialize_config_module("clipbench.conf", version_base="1.3"):
        composed = compose("run", overrides=words)
    plain = OmegaConf.to_container(composed)
    leaves = set(leaf_names(plain))
    closed = {
        "task.name",
        "task._target_",
        "task.batch_size",
        "optim.name",
        "optim._target_",
        "optim.clip",
        "transform.name",
        "transform._target_",
    }  # not for a word to set
    closed |= {name for name in leaves if name.startswith(("task.lr", "tag."))}
    keys = {word.removesuffix("=") for word in offered(f"clipbench run {' '.join(words)} |")}
    assert keys == (leaves - closed) | {"task", "optim", "scale", "transform"}
    for name in keys - {"task", "optim", "scale", "transform"}:  # with the values that this line's runs have
        note = offered(f"clipbench run {' '.join(words)} {name}|")[f"{name}="]
        if "${" not in note:
            value = OmegaConf.select(composed, name)
            assert str(OmegaConf.create(f"x: {note.split('  ')[0]}").x) == str(value), name


def leaf_names(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaf_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clipbench run task=|", {f"task={name}" for name in TASKS}),
        ("clipbench run task=c|", {"task=cola"}),
        ("clipbench sweep task=cola,v|", {"task=cola,voc"}),
        ("clipbench run task=cola,v|", set()),  # a run takes one value
        ("clipbench run --config-dir mine task=li|", {"task=line"}),
        ("clipbench run task=li| --config-dir=mine", {"task=line"}),
        ("clipbench run task=li|", set()),
        ("clipbench run --config-dir mine task=line task.|", {"task.noise.kind="}),
        ("clipbench run optim=|", {f"optim={name}" for name in OPTIMIZERS}),
        ("clipbench run scale=|", {"scale=full", "scale=mini"}),
        ("clipbench run optim.clipping_l|", {"optim.clipping_level="}),
        ("clipbench run optim.clipping_type=|", {f"optim.clipping_type={name}" for name in RULES | TIED}),
        ("clipbench sweep optim.clipping_type=none,au|", {"optim.clipping_type=none,auto"}),
        ("clipbench sweep optim.clipping_type=auto,au|", set()),  # there already
        ("clipbench run optim.clipping_type=auto optim.clip.|", {"optim.clip.window="}),
        ("clipbench run optim.clipping_type=norm optim.clip.|", set()),
        ("clipbench run optim=sgd optim.m|", {"optim.momentum="}),
        ("clipbench run optim.m|", set()),
        ("clipbench run optim.nonfinite=|", {"optim.nonfinite=skip", "optim.nonfinite=raise"}),
        ("clipbench run schedule=|", {f"schedule={name}" for name in CHOICES["schedule"]}),
        ("clipbench sweep sweep.lockstep=|", {"sweep.lockstep=true", "sweep.lockstep=false"}),
        ("clipbench sweep hydra/l|", {"hydra/launcher="}),
        ("clipbench sweep hydra/launcher=jo|", {"hydra/launcher=joblib"}),
        ("clipbench sweep --config-dir mine +exp|", {"+experiment="}),
        ("clipbench sweep --config-dir mine +experiment=wi|", {"+experiment=wide"}),
        ("clipbench run --config-dir mine +exp|", set()),
        ("clipbench run results=|", {FOLDERS}),
        ("clipbench sweep --config-dir |", {FOLDERS}),
        ("clipbench sweep --config-dir=m|", {FOLDERS}),
        ("clipbench plot |", {FOLDERS}),
        ("clipbench plot results --out |", {FOLDERS}),
        ("clipbench plot results --format |", {"png", "svg", "pdf"}),
        ("clipbench tails --width |", {"3.25in", "6.75in"}),
        ("clipbench table --format md,|", {"md,latex", "md,csv"}),
        ("clipbench table |", {FOLDERS}),
        ("clipbench status re|", {FOLDERS}),
        ("clipbench rm |", {FOLDERS}),
        ("clipbench rm results/ cl|", {"clipping_type=", "clipping_level="}),
        ("clipbench rm results/ |", {f"{name}=" for name in SCHEMAS["runs"].names}),
        ("clipbench rm results/ r0|", {"r0123456789ab"}),
        ("clipbench rm --yes results/ status=fa|", {"status=failed"}),
        ("clipbench rm results/ status=failed,d|", {"status=failed,done", "status=failed,diverged"}),
        ("clipbench rm results/ optimizer=sg|", {"optimizer=sgd"}),
        ("clipbench completion |", set(SHELLS)),
        ("clipbench check ta|", {f"task={name}" for name in TASKS}),
        ("clipbench check block|", {"block_rms"}),
        ("clipbench list |", set()),
        ("clipbench nothing |", set()),
        ("A=1 B=2 clipbench completion z|", {"zsh"}),
        ("clipbench run 'task=c|", {"task=cola"}),
    ],
)
def test_what_is_offered_where(offered, line, expected):
    assert set(offered(line)) == expected


def test_formulas_and_first_comments_stand_beside_the_names(offered):
    assert offered("clipbench run optim.clipping_type=none|") == {"optim.clipping_type=none": "α = 1"}
    assert offered("clipbench run --config-dir mine task=li|") == {"task=line": "Points near a plane"}
    assert offered("clipbench run --config-dir mine task=line task.n|") == {
        "task.noise.kind=": "normal  or heavy"
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a ", ["a", ""]),
        ("a 'b c' d", ["a", "b c", "d"]),
        ("a 'b ", ["a", "b "]),
        ("a \"it's", ["a", "it's"]),
        ("a b\\ c", ["a", "b c"]),
        ("a b\\ ", ["a", "b "]),
        ("a b\\", ["a", "b"]),
    ],
)
def test_a_line_is_split_as_a_shell_would(line, words):
    assert split(line) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tcsh"], "Unknown shell 'tcsh'. Known: bash, zsh, fish."),
        (["bsh"], "Did you mean 'bash'?"),
        ([], "required: SHELL"),
    ],
)
def test_an_unknown_shell_is_a_mistake(capsys, words, message):
    assert main(["completion", *words]) == 2
    assert message in capsys.readouterr().err


def test_only_the_shells_ask(capsys):
    assert main(["complete"]) == 2
    assert "clipbench completion bash" in capsys.readouterr().err


SCRIPT = """#!/bin/sh
case $1 in
    complet*) exec "$PYTHON" -m clipbench.cli.main "$@" ;;
    *) printf "%s\\n" "$@" > typed.new; mv typed.new typed ;;
esac
"""
TERMINALS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOAD = {shell: f'eval "$(./clipbench completion {shell})"' for shell in ("bash", "zsh")} | {
    "fish": "./clipbench completion fish | source"
}
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(params=SHELLS)
def terminal(request, here):
    """Types a line into the shell on a terminal and gives the words with which clipbench was then called."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    Path("clipbench").write_text(SCRIPT)
    Path("clipbench").chmod(0o755)
    ours, theirs = pty.openpty()
    env = os.environ | {"PYTHON": sys.executable, "TERM": "xterm", "HOME": str(here), "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-c", OWN_TERMINAL, *TERMINALS[request.param]]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    stopped = threading.Event()
    reader = threading.Thread(target=drain, args=(ours, stopped))
    reader.start()

    def typed(line):
        Path("typed").unlink(missing_ok=True)
        os.write(ours, line.encode() + b"\r")
        until = time.monotonic() + 60
        while not Path("typed").exists() and time.monotonic() < until:
            time.sleep(0.05)
        return [
            word.rstrip("/") for word in Path("typed").read_text().splitlines()
        ]  # zsh takes the slash back before a space

    try:
        assert typed(LOAD[request.param] + "; ./clipbench ready") == ["ready"]
        yield typed
    finally:
        process.kill()
        process.wait()
        stopped.set()
        reader.join()
        os.close(ours)


def drain(terminal, stopped):
    """A terminal that nobody reads from would stop its shell."""
    while not stopped.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                os.read(terminal, 65536)
            except OSError:
                return


def test_tab_in_a_real_shell(terminal):
    assert terminal("./clipbench swe\ttask=ima\t") == ["sweep", "task=imagenet"]
    assert terminal("./clipbench run optim.clipping_t\tlay\t") == ["run", "optim.clipping_type=layer_wise"]
    assert terminal("./clipbench sweep optim.clipping_type=none,au\tseed=0") == [
        "sweep",
        "optim.clipping_type=none,auto",
        "seed=0",
    ]
    words = ["sweep", "--config-dir", "mine", "task=line", "+experiment=wide"]
    assert terminal("./clipbench sweep --config-dir mi\t task=li\t+exp\twi\t") == words
    assert terminal("./clipbench run results=my\t") == ["run", "results=my data"]
    assert terminal("./clipbench rm res\t stat\tfa\tr0\t") == [
        "rm",
        "results",
        "status=failed",
        "r0123456789ab",
    ]
    assert terminal("./clipbench run 'optim.nonfinite=ra\t") == ["run", "optim.nonfinite=raise"]


def test_a_name_that_a_shell_would_run_is_not_offered(tmp_path):
    (tmp_path / "task").mkdir()
    for name in ("$(touch gone)", "`id`", "a;id", "a b", "fine", "\x1b[2J", "a'b", "!!", "{a,b}", "*"):
        (tmp_path / "task" / f"{name}.yaml").write_text("# what\x1b[2J it is\nname: a\n")
    line = f"clipbench run --config-dir {tmp_path} task="
    for shell in ("bash", "zsh", "fish"):
        found = answer(shell, str(len(line)), line, "task=")
        words = {word.partition("\t")[0].strip().partition("=")[2] for word in found}
        assert "fine" in words
        assert words == {word for word in words if word.isalnum()}
        assert "\x1b" not in "".join(found)

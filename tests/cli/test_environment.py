"""What a program, a notebook or a user has set up does not reach us, and ours does not reach them."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from hydra import compose, initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra

from clipbench.plot import style
from clipbench.runs.plan import make_plan

ROOT = Path(__file__).parents[2]
OVERRIDES = ["task=reddit", "steps=7"]


@pytest.mark.parametrize("base", ["1.2", "1.3"])
def test_a_program_that_uses_hydra_finds_it_as_it_was(tmp_path, base):
    alone = make_plan(OVERRIDES).run
    (tmp_path / "own.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base=base):
        before = GlobalHydra.instance().hydra
        assert make_plan(OVERRIDES).run == alone
        assert GlobalHydra.instance().hydra is before
        assert str(version.getbase()) == base
        assert compose("own")["a"] == 1
    assert not GlobalHydra.instance().is_initialized()


def test_what_a_user_has_set_for_their_figures_does_not_reach_ours():
    with matplotlib.rc_context({"lines.linestyle": ":", "axes.grid": True, "axes.facecolor": "black"}):
        with style.drawing():
            assert matplotlib.rcParams["lines.linestyle"] == "-"
            assert not matplotlib.rcParams["axes.grid"]
            assert matplotlib.rcParams["font.size"] == style.RC["font.size"]
        assert matplotlib.rcParams["axes.facecolor"] == "black"


def figures_drawn(folder, **env):
    """{name: content} of what `clipbench plot` draws of the tables that an earlier version wrote."""
    results = ROOT / "tests" / "record" / "earlier_version" / "results"
    words = ["plot", str(results), "--out", str(folder), "--format", "svg"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "0", "PYTHONPATH": str(ROOT), **env}
    subprocess.run([sys.executable, "-m", "clipbench", *words], env=env, check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.glob("*.svg")}


@pytest.mark.slow
def test_a_notebooks_backend_and_a_users_matplotlibrc_change_no_figure(tmp_path):
    rc = tmp_path / "matplotlibrc"
    rc.write_text("axes.grid: True\nlines.linestyle: :\nsvg.fonttype: none\nbackend: nothing_like_it\n")
    plain = figures_drawn(tmp_path / "plain", MATPLOTLIBRC=str(Path(matplotlib.matplotlib_fname())))
    theirs = figures_drawn(tmp_path / "theirs", MATPLOTLIBRC=str(rc), MPLBACKEND="inline_of_a_notebook")
    assert plain
    # ids of clip paths are salted anew in each
    assert {name: len(text) for name, text in plain.items()} == {
        name: len(text) for name, text in theirs.items()
    }


@pytest.mark.parametrize("backend", ["inline_of_a_notebook"])
def test_a_notebooks_backend_stops_no_command(backend):
    script = (
        "from clipbench.cli.main import main; assert main(['plot', 'nowhere']) == 2; import matplotlib.pyplot"
    )
    env = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr

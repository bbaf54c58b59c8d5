"""A sweep that is struck again and again ends with the tables of an untouched one. Many strikes:
scripts/chaos.py.
"""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

from clipbench.record import tables

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc"),
    pytest.mark.slow,
    pytest.mark.ci,
]


@pytest.fixture(scope="module")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).parents[2] / "scripts" / "chaos.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chaos"]


ONE_OF_EACH = [
    "group",
    "worker",
    "data",
    "sleep",
    "disk",
    "everything",
    "stall",
    "terminal",
    "forkserver",
    "sweep",
]


def test_one_strike_of_each_kind_changes_nothing(chaos, tmp_path):
    assert set(ONE_OF_EACH) == set(chaos.KINDS)
    chaos.prepare(tmp_path, {"line": 600})
    struck = chaos.Chaos(tmp_path, ONE_OF_EACH, random.Random(0))
    struck.patience, struck.after_gain, struck.aged = 1.0, (0.0, 0.5), 1.0
    struck.on_terminal = 1.0
    expected = chaos.untouched(tmp_path / "untouched", ONE_OF_EACH)
    found = []
    while struck.left:
        place = struck.sweep(f"struck{len(struck.left)}")
        found += struck.problems + chaos.differences(expected, place)
        assert found == []
    notices(chaos, expected, place)


def notices(chaos, expected, got):
    """Whatever might go wrong with a folder is seen."""
    steps, evals = (sorted((got / name).iterdir()) for name in ("steps", "evals"))
    rows = tables.read(got, "steps", runs=[steps[1].stem])
    tables.write_rows(got, "steps", steps[1].stem, rows.assign(loss=2 * rows["loss"]).to_dict("records"))
    assert [text.split(":")[0] for text in chaos.differences(expected, got)] == ["steps"]
    (got / ".work" / "r1").mkdir(parents=True)
    steps[1].unlink()
    assert chaos.differences(expected, got)[:3] == [
        f"missing: steps/{steps[1].name}",
        "left over: .work",
        "left over: .work/r1",
    ]
    evals[0].write_bytes(evals[0].read_bytes()[:-10])
    assert "not a readable clipbench table" in chaos.differences(expected, got)[-1]

"""A sweep whose processes are killed again and again ends with the tables of an untouched one. Many kills:
scripts/chaos.py.
"""

import importlib.util
import random
import shutil
from itertools import chain, repeat
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc"),
    pytest.mark.slow,
    pytest.mark.ci,
]


@pytest.fixture(scope="module")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", Path(__file__).parents[2] / "scripts" / "chaos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_three_kills_and_a_sleep_change_nothing(chaos, tmp_path):
    chaos.prepare(tmp_path, {"line": 600})
    untouched = chaos.Sweep(tmp_path / "untouched")  # meanwhile
    struck = chaos.Chaos(
        tmp_path, 3, chain(["worker", "sleep", "everything"], repeat("worker")), random.Random(0)
    )
    struck.patience, struck.after_gain = 1.0, (0.0, 0.5)
    try:
        place = struck.sweep("struck")
        assert untouched.process.wait(60) == 0, untouched.log.read_text()
    finally:
        untouched.end()
    assert struck.kills_made == 3
    assert struck.problems == []
    assert chaos.differences(untouched.place, place) == []
    notices(chaos, untouched.place, place)


def notices(chaos, expected, got):
    """Whatever might go wrong with a folder is seen."""
    steps, evals = (sorted((got / name).iterdir()) for name in ("steps", "evals"))
    shutil.copy(steps[0], steps[1])
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

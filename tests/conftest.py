"""What several test files need: a small model whose gradients are easy to scale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from clipbench.optim.laws import set_gradients, small_model, weights

__all__ = ["set_gradients", "small_model", "weights"]

torch.set_num_threads(1)  # the suite runs in several processes


@pytest.fixture
def line(tmp_path, monkeypatch):
    """The current folder, a user's: --config-dir . has `task=line`, the task of tiny.py."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (tmp_path / "own_line.py").write_text(Path(__file__).with_name("tiny.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()  # runs set those of the process
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("own_line", None)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _a_cache_folder_of_our_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _modules_of_one_file_are_not_those_of_another(tmp_path_factory):
    """A rule or task that the tests of a file wrote is forgotten: another file's may have the same name."""
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(written):
            del sys.modules[name]

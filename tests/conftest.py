"""What several test files need: a small model whose gradients are easy to scale."""

from __future__ import annotations

import sys

import pytest
import torch

from clipbench.optim.laws import set_gradients, small_model, weights

__all__ = ["set_gradients", "small_model", "weights"]

torch.set_num_threads(1)  # the suite runs in several processes


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

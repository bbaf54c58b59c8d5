"""`clipbench prepare`: fetch or check a task's data."""

from __future__ import annotations

from argparse import Namespace

from clipbench.cli.messages import DONE
from clipbench.errors import users_code
from clipbench.runs import config
from clipbench.runs.build import build_task, find_device


def prepare(options: Namespace) -> int:
    settings = config.load(options.overrides, options.config_dir)
    with users_code(f"task={settings.task.name}"):
        print(build_task(settings, find_device("cpu")).prepare())
    return DONE

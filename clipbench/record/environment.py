"""Where and when a run is made, and with what: needed to judge its times and to repeat it elsewhere."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("clipbench", "torch", "torchvision", "transformers", "datasets", "torch-geometric", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    """Columns of `runs`: device, driver, host, platform, threads, versions, git."""
    on_gpu = device.type == "cuda"
    return {
        "device": device_name(device),
        "driver": driver() if on_gpu else "",
        "host": socket.gethostname(),
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git": revision(),
    }


def now() -> str:
    """UTC, as 2026-01-31T12:00:00+00:00."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def device_name(device: torch.device) -> str:
    """ "NVIDIA H100", or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def versions() -> str:
    """Of the libraries that compute, as JSON."""
    return json.dumps({name: version(name) for name in LIBRARIES})


@cache
def driver() -> str:
    """The GPU's driver and torch's CUDA: "570.86.15, CUDA 12.8"."""
    found = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return f"{found[0] if found else 'unknown driver'}, CUDA {torch.version.cuda}"


@cache
def revision() -> str:
    """The commit of the checkout that clipbench runs from, with "+" where it was changed; "" outside one."""
    here = str(Path(__file__).parent)
    return _output("git", "-C", here, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

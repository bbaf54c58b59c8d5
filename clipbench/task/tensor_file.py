"""Tensors in one file, with a hash of what they hold: what was damaged is found when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As safetensors. OSError or SafetensorError where the disk refuses.

    Tensors on the CPU, none of which shares memory with another.
    """
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata={"content": content_of(tensors)})


def read_tensors(path: Path) -> Tensors | None:
    """By name, on the CPU. None where there is no such file, or it does not hold what was written."""
    from safetensors import SafetensorError, safe_open

    found: Tensors = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                found[name] = file.get_tensor(name)
            expected = (file.metadata() or {}).get("content")
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError):
        return None
    return found if expected == content_of(found) else None


def content_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values."""
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            whole.update(tensor.flatten().view(torch.uint8).numpy())
    return whole.hexdigest()

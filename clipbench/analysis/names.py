"""Names as the field prints them: MCC, mIoU, CoLA. A name that is not known stays as it is."""

from __future__ import annotations

import re

METRICS = {
    "mcc": "MCC",
    "miou": "mIoU",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "f1": "F1",
    "auroc": "AUROC",
    "mse": "MSE",
    "mae": "MAE",
    "bpb": "bits per byte",
}
TASKS = {
    "cola": "CoLA",
    "imagenet": "ImageNet",
    "voc": "Pascal VOC",
    "reddit": "Reddit",
    "lm": "LM",
    "reber": "Reber",
    "adding": "Adding",
}
OPTIMIZERS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "spam": "SPAM",
    "stable_spam": "Stable-SPAM",
    "sstm": "SSTM",
    "lion": "Lion",
    "muon": "Muon",
    "acclip": "ACClip",
}
IN_BRACKETS = re.compile(r"\s*\([^()]*[\\/][^()]*\)")  # a path
PATH = re.compile(r"[^\s()]*[\\/][^\s()]+")  # in the source of the data, where no "train/val" stands


def is_fitted(baseline: str) -> bool:
    """Whether a baseline has itself learned from the training data, as an n-gram has: who is behind it may
    have learned much all the same.
    """
    return re.fullmatch(r"\d+-gram", baseline) is not None


def metric_name(name: str) -> str:
    """ "mcc" → "MCC"."""
    return METRICS.get(name, name)


def task_name(name: str) -> str:
    """ "cola" → "CoLA"."""
    return TASKS.get(name, name)


def optimizer_name(name: str) -> str:
    """ "adamw" → "AdamW"."""
    return OPTIMIZERS.get(name, name)


def data_name(data: str) -> str:
    """Which data, of what a run recorded, without sizes and without where they lie on one machine.

    "a graph of 9 nodes (/home/me/x), 7 classes" → "a graph of 9 nodes"; "/home/me/cifar/png, 10 classes" →
    "cifar/png".
    """
    source = IN_BRACKETS.sub("", data.partition(", ")[0])
    return PATH.sub(_last_folders, source)


def title_of_data(data: str) -> str:
    """Its name as a title begins with it: "A graph of 9 nodes"; a folder's stays as it is."""
    name = data_name(data)
    return name if "/" in name else name[:1].upper() + name[1:]


def _last_folders(path: re.Match[str]) -> str:
    return "/".join(re.split(r"[\\/]", path[0].rstrip("\\/"))[-2:])

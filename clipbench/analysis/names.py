"""Names as the field prints them: MCC, mIoU, CoLA. A name that is not known stays as it is."""

from __future__ import annotations

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
TASKS = {"cola": "CoLA", "imagenet": "ImageNet", "voc": "Pascal VOC", "reddit": "Reddit", "lm": "LM"}
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


def metric_name(name: str) -> str:
    """ "mcc" → "MCC"."""
    return METRICS.get(name, name)


def task_name(name: str) -> str:
    """ "cola" → "CoLA"."""
    return TASKS.get(name, name)


def optimizer_name(name: str) -> str:
    """ "adamw" → "AdamW"."""
    return OPTIMIZERS.get(name, name)

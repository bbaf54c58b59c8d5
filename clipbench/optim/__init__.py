"""Clipped optimizers for any training script. Imports torch and nothing else of clipbench.

rules.py       what to do with a gradient: the clipping rules, pure
checks.py      what the settings that rules share may be
make.py        a rule from its name and settings
clip.py        joins a rule to any torch optimizer
optimizers.py  torch's optimizers with clipping in the constructor
"""

from clipbench.optim.clip import ClipStats, clip_gradients, clip_stats
from clipbench.optim.make import make_rule
from clipbench.optim.optimizers import ClippedAdam, ClippedAdamW, ClippedSGD, choose_fused
from clipbench.optim.rules import (
    ALIASES,
    RULES,
    Auto,
    CoordinateWise,
    Gradients,
    LayerWise,
    LinearRandAuto,
    LinearRandNorm,
    NoClip,
    Norm,
    QuadraticRandAuto,
    QuadraticRandNorm,
    Rule,
    within,
)

__all__ = [
    "ALIASES",
    "RULES",
    "Auto",
    "ClipStats",
    "ClippedAdam",
    "ClippedAdamW",
    "ClippedSGD",
    "CoordinateWise",
    "Gradients",
    "LayerWise",
    "LinearRandAuto",
    "LinearRandNorm",
    "NoClip",
    "Norm",
    "QuadraticRandAuto",
    "QuadraticRandNorm",
    "Rule",
    "choose_fused",
    "clip_gradients",
    "clip_stats",
    "make_rule",
    "within",
]

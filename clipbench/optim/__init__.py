"""Clipped optimizers for any training script. Imports torch and nothing else of clipbench.

rules.py       what to do with a gradient: the clipping rules, pure
adaptive.py    rules whose level follows the weights, the norms so far, or what was cut before
block_rms.py   clips Adam's update
checks.py      what a rule's settings may be
make.py        the table of names; a rule from its name and settings
memory.py      what a rule remembers, parameter by parameter
clip.py        joins a rule to any torch optimizer
optimizers.py  torch's optimizers with clipping in the constructor
acclip.py      ACClip
laws.py        what every rule owes, for the tests and for `clipbench check`; not imported here
chain.py       rules one after the other
spam.py        SPAM, StableSPAM
sstm.py        ClippedSSTM, and an estimate of the smoothness that it wants
averaging.py   evaluation at the answer of an averaging optimizer
restart.py     restarts at the mean of the weights
baselines.py   Lion, Muon
"""

from clipbench.optim.acclip import ACClip
from clipbench.optim.adaptive import AGC, AdaGC, UClip, ZClip
from clipbench.optim.averaging import evaluation_weights
from clipbench.optim.baselines import Lion, Muon
from clipbench.optim.block_rms import BlockRMS
from clipbench.optim.chain import Chain
from clipbench.optim.clip import ClipStats, clip_gradients, clip_stats
from clipbench.optim.make import ALIASES, RULES, TIED, make_rule
from clipbench.optim.optimizers import ClippedAdam, ClippedAdamW, ClippedSGD, choose_fused
from clipbench.optim.restart import OptimizerProperties, Restarter
from clipbench.optim.rules import (
    Auto,
    CoordinateWise,
    Gradients,
    LayerWise,
    LinearRandAuto,
    LinearRandNorm,
    NoClip,
    Norm,
    Normalize,
    QuadraticRandAuto,
    QuadraticRandNorm,
    Rule,
    Value,
    within,
)
from clipbench.optim.spam import SPAM, AdaClip, AdaGN, StableSPAM
from clipbench.optim.sstm import ClippedSSTM, estimate_smoothness

__all__ = [
    "AGC",
    "ALIASES",
    "RULES",
    "SPAM",
    "TIED",
    "ACClip",
    "AdaClip",
    "AdaGC",
    "AdaGN",
    "Auto",
    "BlockRMS",
    "Chain",
    "ClipStats",
    "ClippedAdam",
    "ClippedAdamW",
    "ClippedSGD",
    "ClippedSSTM",
    "CoordinateWise",
    "Gradients",
    "LayerWise",
    "LinearRandAuto",
    "LinearRandNorm",
    "Lion",
    "Muon",
    "NoClip",
    "Norm",
    "Normalize",
    "OptimizerProperties",
    "QuadraticRandAuto",
    "QuadraticRandNorm",
    "Restarter",
    "Rule",
    "StableSPAM",
    "UClip",
    "Value",
    "ZClip",
    "choose_fused",
    "clip_gradients",
    "clip_stats",
    "estimate_smoothness",
    "evaluation_weights",
    "make_rule",
    "within",
]

"""Clipped optimizers for any training script. Imports torch and nothing else of clipbench.

What to do with a gradient
    rule.py         what a rule is: the base class, rules that edit entries, rules that act on the update
    rules.py        the core rules, in order of complexity
    auto.py         a level that is a quantile of the norms so far
    adaptive.py     a level that follows the weights, the norms so far, or what was cut before
    stabilizers.py  the two rules of Stable-SPAM
    block_rms.py    clips Adam's update
    chain.py        rules one after the other
    checks.py       what a rule's settings may be
    make.py         the table of names; a rule from its name and settings
    names.py        the object behind "module:Class"; the nearest spelling

How it is done at every step of a torch optimizer
    clip.py         clip_gradients, and the hooks that call what follows
    units.py        which parameters are normed, clipped and remembered together
    gradients.py    the measured gradient: norms before and after
    ranks.py        how tensors lie over processes, and sums over them
    memory.py       what is remembered, and where it lies
    loading.py      a checkpoint that is loaded, or one of the version before
    fused.py        a factor that the fused kernel applies, together with a GradScaler's
    randomness.py   the generator of random rules
    inside.py       the optimizer inside of a wrapper
    stats.py        what clipping did; the common level
    protocols.py    what an optimizer may have beside torch's interface

Optimizers
    optimizers.py   torch's, with clipping in the constructor
    acclip.py       ACClip
    spam.py         SPAM, StableSPAM
    resets.py       their resets of the moments
    sstm.py         ClippedSSTM
    smoothness.py   an estimate of the smoothness that it wants to know
    averaging.py    evaluation at the answer of an averaging optimizer
    restart.py      restarts at the mean of the weights
    baselines.py    Lion, Muon

Conformance tests, for ours and for `clipbench check`; not imported here
    laws.py         the two tables of them
    contract.py     what every rule promises
    properties.py   what some have
    probes.py       the small models and gradients that they are tried on
"""

from clipbench.optim.acclip import ACClip
from clipbench.optim.adaptive import AGC, AdaGC, UClip, ZClip
from clipbench.optim.auto import Auto, LinearRandAuto, QuadraticRandAuto
from clipbench.optim.averaging import evaluation_weights
from clipbench.optim.baselines import Lion, Muon
from clipbench.optim.block_rms import BlockRMS
from clipbench.optim.chain import Chain
from clipbench.optim.clip import clip_gradients
from clipbench.optim.gradients import Gradients
from clipbench.optim.make import ALIASES, RULES, TIED, make_rule
from clipbench.optim.optimizers import ClippedAdam, ClippedAdamW, ClippedSGD, choose_fused
from clipbench.optim.protocols import OptimizerExtras
from clipbench.optim.restart import OptimizerProperties, Restarter
from clipbench.optim.rule import EntryRule, Rule, UpdateRule, within
from clipbench.optim.rules import (
    CoordinateWise,
    LayerWise,
    LinearRandNorm,
    NoClip,
    Norm,
    Normalize,
    QuadraticRandNorm,
    Value,
)
from clipbench.optim.smoothness import estimate_smoothness
from clipbench.optim.spam import SPAM, StableSPAM
from clipbench.optim.sstm import ClippedSSTM
from clipbench.optim.stabilizers import AdaClip, AdaGN
from clipbench.optim.stats import ClipStats, clip_stats, set_clipping_level

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
    "EntryRule",
    "Gradients",
    "LayerWise",
    "LinearRandAuto",
    "LinearRandNorm",
    "Lion",
    "Muon",
    "NoClip",
    "Norm",
    "Normalize",
    "OptimizerExtras",
    "OptimizerProperties",
    "QuadraticRandAuto",
    "QuadraticRandNorm",
    "Restarter",
    "Rule",
    "StableSPAM",
    "UClip",
    "UpdateRule",
    "Value",
    "ZClip",
    "choose_fused",
    "clip_gradients",
    "clip_stats",
    "estimate_smoothness",
    "evaluation_weights",
    "make_rule",
    "set_clipping_level",
    "within",
]

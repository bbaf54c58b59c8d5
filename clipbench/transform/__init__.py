"""A trained model, changed: what is clipped in its weights or its activations once training is over.

transform.py  what a transform is, and what it may look at
rounding.py   weights on a uniform grid

A new transform is a class with a line in TRANSFORMS, or in a module of the user's, and a file in
`conf/transform`.
"""

from clipbench.transform.rounding import Round
from clipbench.transform.transform import Source, Transform

TRANSFORMS: dict[str, type[Transform]] = {"round": Round}
"""Ours, by the names of their files: what ids call them, also when a class is renamed."""

__all__ = ["TRANSFORMS", "Round", "Source", "Transform"]

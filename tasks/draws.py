"""Whole numbers by chance, the same on every machine and in every version of Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")
WORD = (1 << 64) - 1


class Draws:
    """SplitMix64: 64 random bits a step (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195)."""

    def __init__(self, seed: int) -> None:
        self.state = seed & WORD

    def bits(self) -> int:
        """0 … 2⁶⁴ − 1, each as often."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & WORD
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
        return mixed ^ (mixed >> 31)

    def below(self, n: int) -> int:
        """0 … n − 1, each as often but for n/2⁶⁴."""
        return (self.bits() * n) >> 64

    def choice(self, among: Sequence[Item]) -> Item:
        return among[self.below(len(among))]

    def shuffle(self, items: list[Item]) -> None:
        """In place, every order as often (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

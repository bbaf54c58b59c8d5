"""A local mean of scattered points, with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def smoothed(
    x: ArrayLike, y: ArrayLike, width: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places, local mean, half its 95 % interval) of y over x, by local lines under a Gaussian of `width`.
    (40,) each; empty for n < 5.

    With weights l at a place the mean is l·y and its error σ·‖l‖, σ² from the residuals with n − tr(2L − LLᵀ)
    degrees of freedom. As `width` grows it becomes the least-squares line with its t-interval. Source:
    Cleveland and Devlin 1988, JASA 83:596.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 5 or np.ptp(x) == 0:
        nothing = np.zeros(0)
        return nothing, nothing, nothing
    width = width or max(0.12, 1.5 / len(x)) * float(np.ptp(x))
    places = np.linspace(x.min(), x.max(), 40)
    weights = _weights(places, x, width)
    mean = weights @ y
    own = _weights(x, x, width)  # L: those of the points themselves
    freedom = len(x) - float(np.trace(2 * own - own @ own.T))
    if freedom < 1:
        unknown = np.full(len(places), np.nan)
        return places, mean, unknown
    residuals = y - own @ y
    sigma = np.sqrt(np.sum(residuals**2) / freedom)
    t = stats.t.ppf(0.975, freedom)
    half = t * sigma * np.linalg.norm(weights, axis=1)
    return places, mean, half


def _weights(places: np.ndarray, x: np.ndarray, width: float) -> np.ndarray:
    """How much each y counts in the local line's value at each place. (places, n)"""
    distance = x - places[:, None]
    kernel = np.exp(-0.5 * (distance / width) ** 2)
    first = np.sum(kernel * distance, axis=1, keepdims=True)
    second = np.sum(kernel * distance**2, axis=1, keepdims=True)
    weights = kernel * (second - distance * first)
    total = np.sum(weights, axis=1, keepdims=True)
    return weights / total

"""The sequence of records: pure functions from keys or positions to positions."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Positions = np.ndarray[Any, np.dtype[np.int64]]


def ascending(keys: Floats, tie: Keys) -> Positions:
    """Return positions (n,) from the lowest key to the highest; equal keys by `tie`, uint64 (n,)."""
    return np.lexsort((tie, keys))


def folded(order: Positions, folds: int) -> Positions:
    """Return every `folds`-th position, then every `folds`-th after the second, and so on: each fold keeps the order.

    The folding of DELT (Dai et al. 2025): a curriculum gone through `folds` times, each time over other records.
    """
    return np.concatenate([order[first::folds] for first in range(folds)])

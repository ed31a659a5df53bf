"""Random numbers that belong to records: functions of (seed, purpose, identity), never of stream position."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

Keys = np.ndarray[Any, np.dtype[np.uint64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def uniform(seed: int, purpose: str, identities: Keys) -> Floats:
    """Return a draw in (0, 1) for each identity: float64 (n,); another purpose gives independent draws."""
    key = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=16).digest()
    first, second = np.frombuffer(key, "<u8")
    mixed = _mix(_mix(identities ^ first) ^ second)
    return np.asarray(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def gumbel(seed: int, purpose: str, identities: Keys) -> Floats:
    """Return standard Gumbel noise for each identity: float64 (n,)."""
    return np.asarray(-np.log(-np.log(uniform(seed, purpose, identities))))


def _mix(values: Keys) -> Keys:
    """Spread every bit over the result (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))

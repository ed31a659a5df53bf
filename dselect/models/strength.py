"""Predictive strength: how well the order of models' losses on a text agrees with the order of their abilities.

Shum et al. 2025, "Predictive Data Selection" (PreSelect): S = #{pairs: the abler model has the lower loss} / Z.
Z counts the pairs of different ability; equal losses count for nothing. Without ties S = (1 - Kendall's tau) / 2.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dselect.errors import DselectError

Floats = np.ndarray[Any, np.dtype[np.float64]]


def read_abilities(path: str) -> dict[str, float]:
    """Read a CSV of model and score, with or without a header; DselectError unless two models differ."""
    found: dict[str, float] = {}
    try:
        rows = list(csv.reader(Path(path).read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DselectError(f"cannot read the abilities: {error}", where=path) from error
    for number, row in enumerate(rows, 1):
        if not row or (number == 1 and [cell.strip() for cell in row] == ["model", "score"]):
            continue
        try:
            name, score = row[0].strip(), float(row[1])
            good = len(row) == 2 and bool(name) and math.isfinite(score)
        except (ValueError, IndexError):
            good = False
        if not good:
            raise DselectError("not a model and its score", where=f"{path}:{number}", way_out="lines as: llama-7b,75.4")
        if name in found:
            raise DselectError(f'the model "{name}" comes twice', where=f"{path}:{number}")
        found[name] = score
    if len(found) < 2:
        raise DselectError(f"{len(found)} models give no pair", where=path, way_out="at least two")
    if len(set(found.values())) < 2:
        raise DselectError("all abilities are equal: no pair can be in order", where=path)
    return found


def pairs(abilities: Floats) -> list[tuple[int, int]]:
    """Return the positions (weaker, stronger) of every pair of models of different ability."""
    count = range(len(abilities))
    return [(i, j) for i in count for j in count if abilities[i] < abilities[j]]


def strength(losses: Floats, abilities: Floats) -> Floats:
    """Return S of every text: float64 (n,), 0 … 1. losses: (n, models); abilities: (models,), two of them different."""
    comparable = pairs(abilities)
    ordered = np.zeros(len(losses), np.int64)
    for weaker, stronger in comparable:
        ordered += losses[:, weaker] > losses[:, stronger]
    return np.asarray(ordered / len(comparable))


def chance_of_one(abilities: Floats) -> float:
    """Return the probability of S = 1 if losses were in any order alike: Π (ties of an ability)! / models!."""
    ties = Counter(abilities.tolist()).values()
    return math.prod(map(math.factorial, ties)) / math.factorial(len(abilities))


def never_ordered(losses: Floats, abilities: Floats) -> tuple[int, int] | None:
    """Return a pair whose stronger model has the lower loss on no text at all, or None."""
    return next((p for p in pairs(abilities) if not (losses[:, p[0]] > losses[:, p[1]]).any()), None)

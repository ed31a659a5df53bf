"""Mixtures in files: the weight of each domain, and how to tell which domain a record is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dselect.choice import read_weights
from dselect.errors import DselectError, UsageError
from dselect.mixtures.domains import Clustered, Domains, Field


@dataclass(frozen=True)
class Mixture:
    """Weights by domain, how to tell domains (None where the file does not say), and what else is known."""

    weights: Mapping[str, float]
    domains: Domains | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the mixture as JSON."""
        told = {"weights": dict(self.weights), **self.facts, **(self.domains.told() if self.domains else {})}
        return json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, path: str) -> Mixture:
        """Read a file that `climb` wrote, or a bare JSON object of weights; DselectError if it is neither."""
        weights = read_weights(path)
        found = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(found.get("weights"), dict):
            return cls(weights)
        within, clusters = found.get("within"), found.get("clusters")
        if isinstance(clusters, dict):
            return cls(weights, Clustered.read(clusters, path))
        if within is not None and not isinstance(within, str):
            raise DselectError("not a sound mixture: its field is no name", where=path)
        return cls(weights, None if within is None else Field(within))

    def told_by(self, within: str | None) -> Domains:
        """Return how to tell domains: by the field that is named here, or else as the file says."""
        found = self.domains if within is None else Field(within)
        if found is None:
            raise UsageError("the weights do not say which field names the domain", way_out="--within FIELD")
        return found

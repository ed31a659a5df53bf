"""Mixtures in files: the weight of each domain, and how to tell which domain a record is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dselect.choice import read_weights
from dselect.errors import DselectError, UsageError
from dselect.pipeline import refuse_missing
from dselect.records.batch import Batch


class Domains(Protocol):
    """How the domain of a record is told. It must pickle."""

    def of(self, batch: Batch) -> list[str]:
        """Return the name of each record's domain."""


@dataclass(frozen=True)
class Field:
    """A field of the records names their domain."""

    name: str

    def of(self, batch: Batch) -> list[str]:
        """Return what the field says; DselectError where a record lacks it."""
        labels = batch.labels(self.name)
        if None in labels:
            refuse_missing(batch, self.name, labels.index(None), "--within FIELD, one that every record has")
        return [str(label) for label in labels]


@dataclass(frozen=True)
class Mixture:
    """Weights by domain; the field that names the domains, None where the file does not say; what else is known."""

    weights: Mapping[str, float]
    within: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the mixture as JSON."""
        told = {"weights": dict(self.weights), "within": self.within, **self.facts}
        return json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, path: str) -> Mixture:
        """Read a file that `climb` wrote, or a bare JSON object of weights; DselectError if it is neither."""
        weights = read_weights(path)
        found = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(found.get("weights"), dict):
            return cls(weights)
        within = found.get("within")
        if within is not None and not isinstance(within, str):
            raise DselectError("not a sound mixture: its field is no name", where=path)
        return cls(weights, within, {name: found[name] for name in found if name not in ("weights", "within")})

    def domains(self, within: str | None) -> Domains:
        """Return how to tell domains: by the field that is named here, or else by the one the file names."""
        name = within or self.within
        if name is None:
            raise UsageError("the weights do not say which field names the domain", way_out="--within FIELD")
        return Field(name)

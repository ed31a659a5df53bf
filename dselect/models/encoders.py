"""What turns texts into vectors, and how a model that needs one keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dselect.errors import DselectError, UsageError
from dselect.models import hashed, sentences, static_vectors
from dselect.models.hashed import Hashed
from dselect.models.sentences import Sentences, SentenceSettings
from dselect.models.static_vectors import StaticVectors
from dselect.models.tables import Arrays

Rows = np.ndarray[Any, np.dtype[np.float32]]


class Encoder(Protocol):
    """Texts to vectors. It must pickle."""

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""

    @property
    def alone(self) -> bool:
        """Whether one process is enough for it: it has threads of its own, or a device."""

    def encode(self, texts: Sequence[bytes]) -> Rows:
        """Return the vector of every text: float32 (n, dimension), unit rows; zeros where it knows nothing of a text.

        `hashed` and `static` give a text the same bytes in any company, `st` within 1e-5.
        """

    def settings(self) -> dict[str, Any]:
        """Return what a model file says of it, as JSON; `encoder` is its kind."""

    def arrays(self) -> Arrays:
        """Return what a model file holds of it beside the settings."""


def from_spec(spec: str, settings: SentenceSettings) -> Encoder | None:
    """Return the encoder that is named as `static:PATH`, `st:PATH` or as a saved file; None for `hashed`, to be fitted.

    DselectError where there is no such encoder.
    """
    if spec == "hashed":
        return None
    kind, colon, path = spec.partition(":")
    if colon and kind == "static":
        return StaticVectors(path)
    if colon and kind == "st":
        return Sentences(path, settings)
    if colon or not spec:
        raise UsageError(
            f"cannot read --encoder {spec!r}", way_out="hashed, static:PATH, st:PATH, or a file that embed --save wrote"
        )
    return Hashed.load(spec)


def from_file(settings: Mapping[str, Any], arrays: Arrays, path: str, how: SentenceSettings) -> Encoder:
    """Return the encoder that a model file keeps: its `settings` and `arrays`; DselectError if they are not sound."""
    kind = settings.get("encoder")
    if kind == hashed.KIND:
        return Hashed.from_file(settings, arrays, path)
    found = settings.get("path")
    if kind == static_vectors.KIND and isinstance(found, str):
        encoder = StaticVectors(found)
        if encoder.digest != settings.get("digest"):
            raise DselectError(
                f"{found} is not the encoder it was fitted with", where=path, way_out="fit it again with --save"
            )
        return encoder
    if kind == sentences.KIND and isinstance(found, str):
        return Sentences(found, how)
    raise DselectError("not a sound model: it names no encoder", where=path)

"""Arrays and their settings in one safetensors file: nothing in it can run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dselect.errors import DselectError

Arrays = Mapping[str, np.ndarray[Any, Any]]


def to_bytes(kind: str, settings: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Return a model as safetensors bytes, its kind and settings as JSON in the header; same model, same bytes."""
    from safetensors.numpy import save

    # one metadata entry: the library keeps several in no particular order
    header = {"dselect": json.dumps({"model": kind, **settings}, sort_keys=True)}
    return save(dict(arrays), metadata=header)


def load(path: str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Read a model's settings and arrays; DselectError if the file is damaged or holds another kind of model."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise DselectError("no such model file", where=path, way_out="--save makes one")
    try:
        with safe_open(path, framework="numpy") as file:
            settings = json.loads((file.metadata() or {}).get("dselect", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise DselectError(f"not a readable model: {error}", where=path, way_out="fit it again with --save") from error
    if not isinstance(settings, dict) or settings.pop("model", None) != kind:
        raise DselectError(f"this file does not hold a {kind} model", where=path)
    return settings, arrays

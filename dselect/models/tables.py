"""Arrays and their settings in one safetensors file: nothing in it can run code."""

from __future__ import annotations

import json
import mmap
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


def _refuse_absent(path: str) -> None:
    if Path(path).is_dir():
        raise DselectError("a folder, not a model file", where=path, way_out="name a file in it")
    if not Path(path).is_file():
        raise DselectError("no such model file", where=path, way_out="fit it first: --save, or for loss `lm -o`")


def load(path: str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Read a model's settings and arrays; DselectError if the file is damaged or holds another kind of model."""
    from safetensors import SafetensorError, safe_open

    _refuse_absent(path)
    try:
        with safe_open(path, framework="numpy") as file:
            settings = json.loads((file.metadata() or {}).get("dselect", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise DselectError(f"not a readable model: {error}", where=path, way_out="fit it again with --save") from error
    if not isinstance(settings, dict) or settings.pop("model", None) != kind:
        raise DselectError(f"this file does not hold a {kind} model", where=path)
    return settings, arrays


def load_mapped(path: str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """As `load`, but the arrays stay in the file: read-only, and shared by all processes that load it."""
    from safetensors import SafetensorError, safe_open

    _refuse_absent(path)
    try:
        with safe_open(path, framework="numpy"):
            pass  # whatever its header says about the arrays is checked against the file
        with Path(path).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:start])
        settings = json.loads((header.pop("__metadata__", None) or {}).get("dselect", "null"))
        arrays = {name: _view(mapped, start, **entry) for name, entry in header.items()}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DselectError(f"not a readable model: {error}", where=path, way_out="fit it again") from error
    if not isinstance(settings, dict) or settings.pop("model", None) != kind:
        raise DselectError(f"this file does not hold a {kind} model", where=path)
    return settings, arrays


_TYPES = {"U8": np.uint8, "U32": np.uint32, "U64": np.uint64, "F32": np.float32, "F64": np.float64}


def _view(mapped: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray[Any, Any]:
    item = np.dtype(_TYPES.get(dtype, "V"))
    first, end = data_offsets
    if item.itemsize == 0 or (start + first) % item.itemsize:
        raise ValueError(f"an array of type {dtype} that begins at byte {start + first}")
    return np.frombuffer(mapped, item, (end - first) // item.itemsize, start + first).reshape(shape)

"""Vectors of records in files: one safetensors file for each input, looked up by the records' identities.

A file holds `vectors`, float32 (n, d), in the order of the records; `identities`, uint64 (n,), ascending; `rows`,
uint32 (n,), the vector of each identity; and in its header which encoder made them. Files are mapped into memory: what
is not looked up is not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dselect.errors import DselectError
from dselect.models import tables
from dselect.records.batch import Batch
from dselect.records.publishing import TemporaryFile, write_all

SUFFIX = ".safetensors"
_INPUTS = (".zst", ".gz", ".jsonl", ".parquet")

Rows = np.ndarray[Any, np.dtype[np.float32]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]


def file_name(relative: str) -> str:
    """Return what an input's vectors are called: `a/b.jsonl.zst` gives `a/b.safetensors`."""
    for suffix in _INPUTS:
        relative = relative.removesuffix(suffix)
    return relative + SUFFIX


def _packed(dimension: int) -> np.dtype[Any]:
    return np.dtype([("identity", "<u8"), ("vector", "<f4", (dimension,))])


def pack(identities: Keys, vectors: Rows) -> bytes:
    """Return records' identities and vectors as `VectorFile.write` takes them."""
    found = np.empty(len(vectors), _packed(vectors.shape[1]))
    found["identity"], found["vector"] = identities, vectors
    return found.tobytes()


class VectorFile:
    """One output of vectors: what `pack` returns, block after block."""

    def __init__(self, path: Path, dimension: int, encoder: Mapping[str, Any]) -> None:
        self.path = path
        self._dimension, self._encoder = dimension, encoder
        self._identities: list[Keys] = []
        # room for a header that is known only in the end; the vectors begin at a multiple of 64
        self._room = -(-len(self._header(1 << 40)) // 64) * 64 + 56
        self._temporary = TemporaryFile(path)
        self._put(bytes(8 + self._room))

    def _header(self, count: int) -> bytes:
        """Return the header of a file of so many vectors, as safetensors has it."""
        sizes = [("vectors", "F32", [count, self._dimension], 4 * count * self._dimension)]
        # the next array holds numbers of 8 bytes, and begins at a multiple of that
        sizes += [("even", "U8", [4], 4)] if sizes[0][3] % 8 else []
        sizes += [("identities", "U64", [count], 8 * count), ("rows", "U32", [count], 4 * count)]
        settings = {"model": "vectors", "encoder": self._encoder}
        header: dict[str, Any] = {"__metadata__": {"dselect": json.dumps(settings, sort_keys=True)}}
        at = 0
        for name, kind, shape, size in sizes:
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        return json.dumps(header).encode()

    def write(self, data: bytes) -> None:
        """Take the vectors of a block of records."""
        found = np.frombuffer(data, _packed(self._dimension))
        self._identities.append(found["identity"].astype(np.uint64))
        self._put(np.ascontiguousarray(found["vector"]).tobytes())

    def finish(self) -> None:
        """Write what is known only now, and give the file its name."""
        identities = np.concatenate([np.zeros(0, np.uint64), *self._identities])
        if len(identities) >= 1 << 32:
            raise DselectError("more than 4,294,967,295 records", where=str(self.path), way_out="smaller shards")
        order = np.argsort(identities, kind="stable")  # of equal identities the first is found
        if 4 * len(identities) * self._dimension % 8:
            self._put(bytes(4))
        self._put(identities[order].tobytes())
        self._put(order.astype(np.uint32).tobytes())
        self._temporary.file.seek(0)
        self._put(self._room.to_bytes(8, "little") + self._header(len(identities)).ljust(self._room))
        self._temporary.commit()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._temporary.discard()

    def _put(self, data: bytes) -> None:
        try:
            write_all(self._temporary.file, data)
        except OSError as error:
            raise DselectError(f"cannot write: {error.strerror}", where=str(self.path)) from error


class _Shard(NamedTuple):
    """One file."""

    vectors: Rows
    identities: Keys
    rows: np.ndarray[Any, np.dtype[np.uint32]]


class StoredVectors:
    """The vectors that are in a folder: of any records, in any order and number of files."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        paths = sorted(path for path in Path(folder).rglob(f"*{SUFFIX}") if not path.name.startswith("."))
        if not paths:
            raise DselectError(
                "no vectors in this folder", where=folder, way_out="dselect embed POOL -o DIR/ makes them"
            )
        self.encoder: dict[str, Any] = {}
        self._shards: list[_Shard] = []
        self.stamp = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        for path in paths:
            encoder, shard = _load(str(path))
            if self._shards and (encoder != self.encoder or shard.vectors.shape[1] != self.dimension):
                raise DselectError(
                    f"another encoder than that of {paths[0]}", where=str(path), way_out="embed the whole pool again"
                )
            self.encoder = encoder
            self._shards.append(shard)

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return int(self._shards[0].vectors.shape[1])

    def of(self, batch: Batch) -> Rows:
        """Return the vector of every record: float32 (n, dimension); DselectError where there is none."""
        identities = batch.identities
        found = np.zeros((len(batch), self.dimension), np.float32)
        missing = np.arange(len(batch))
        for number, shard in enumerate(self._shards):
            if not len(missing):
                break
            wanted = identities[missing]
            at = np.minimum(np.searchsorted(shard.identities, wanted), max(len(shard.identities) - 1, 0))
            there = shard.identities[at] == wanted if len(shard.identities) else np.zeros(len(wanted), bool)
            if there.any():
                rows = shard.rows[at[there]]
                if (rows >= len(shard.vectors)).any():
                    raise DselectError("damaged: it names vectors that it does not hold", where=self.stamp[number][0])
                found[missing[there]] = shard.vectors[rows]
                missing = missing[~there]
        if len(missing):
            raise DselectError(
                f"no vector of this record in {self.folder}",
                where=f":{batch.numbers[int(missing[0])]}",
                way_out="dselect embed makes them for the texts as they are now",
            )
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise DselectError(f"its vector in {self.folder} is not finite", where=f":{batch.numbers[bad]}")
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the receiver finds in the folder."""
        return {"folder": self.folder, "stamp": self.stamp}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files that the sender has mapped."""
        self.__init__(state["folder"])  # type: ignore[misc]  # the files are opened as they were
        if self.stamp != [tuple(one) for one in state["stamp"]]:
            raise DselectError("the vectors changed while they were in use", where=self.folder, way_out="run again")


def _load(path: str) -> tuple[dict[str, Any], _Shard]:
    """Map a file; DselectError if it holds no vectors, or is not sound."""
    try:
        settings, arrays = tables.load_mapped(path, "vectors")
    except DselectError as error:
        what = error.what.replace("not a readable model", "no readable file of vectors")
        raise DselectError(what, where=path, way_out="dselect embed makes it again") from error
    try:
        shard = _Shard(arrays["vectors"], arrays["identities"], arrays["rows"])
        encoder = dict(settings["encoder"])
    except (KeyError, TypeError, ValueError) as error:
        raise DselectError(f"no sound file of vectors: {error}", where=path) from error
    sound = (
        shard.vectors.dtype == np.float32
        and shard.vectors.ndim == 2
        and shard.vectors.shape[1] > 0
        and shard.identities.dtype == np.uint64
        and shard.rows.dtype == np.uint32
        and shard.identities.shape == shard.rows.shape == (len(shard.vectors),)
        and (shard.identities[1:] >= shard.identities[:-1]).all()
    )
    if not sound:
        raise DselectError("no sound file of vectors", where=path, way_out="dselect embed makes it again")
    return encoder, shard

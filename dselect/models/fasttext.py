"""Classifiers of the fastText library: read with care, collapsed to tables of scalars, trained.

Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification" (EACL); the file format is that of the library's
`saveModel`. The library itself reads a truncated file without a word and may crash on a corrupt one, so every file is
checked here, to its last byte, before anything else touches it.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dselect.errors import DselectError
from dselect.models import tables

MAGIC, VERSIONS = 793712314, (11, 12)
SUPERVISED = 3
HIERARCHICAL, SOFTMAX = 1, 3
LOSSES = {1: "hierarchical softmax", 2: "negative sampling", 3: "softmax", 4: "one against all"}
MOST = {"dim": 1 << 16, "ngrams": 64, "longest": 1 << 10}  # of a header that is not nonsense
CENTROIDS = 256
CHUNK = 1 << 24  # bytes of vectors projected at a time

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Vectors:
    """A matrix as it lies in the file: float32 rows, or codes of product quantisation (Jégou et al. 2011)."""

    rows: int
    columns: int
    at: int  # where the numbers, or the codes, begin
    width: int = 0  # of a sub-vector; 0: the rows are as they are
    parts: int = 0  # sub-vectors in a row
    centroids: int = 0  # where float32 (256, width) of each part begin
    norms: int = 0  # where the codes of the rows' norms begin; 0: none
    norm_centroids: int = 0


@dataclass(frozen=True)
class Layout:
    """What a model file holds, checked: settings, labels, and where the rest lies."""

    path: str
    size: int
    dim: int
    loss: int
    ngrams: int
    buckets: int
    shortest: int
    longest: int
    words: int
    labels: tuple[str, ...]
    dictionary: tuple[Array, Array]  # letters uint8, ends uint64
    pruned: Array | None  # int32 (k, 2): buckets that were kept, and their rows behind those of the words
    inputs: Vectors
    outputs: Vectors

    @property
    def uses_buckets(self) -> bool:
        """Whether any feature but a word is asked for."""
        return self.ngrams > 1 or self.longest > 0


class _Reader:
    """Takes what a file holds piece by piece, and never beyond its end."""

    def __init__(self, path: str, data: Any) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, form: str, what: str) -> tuple[Any, ...]:
        """Unpack little-endian numbers."""
        at = self.skip(struct.calcsize("<" + form), what)
        return struct.unpack_from("<" + form, self.data, at)

    def skip(self, count: int, what: str) -> int:
        """Pass over some bytes; return where they begin."""
        if count < 0 or count > len(self.data) - self.at:
            self.refuse(f"it ends within {what}: {len(self.data):,} bytes are too few")
        self.at += count
        return self.at - count

    def refuse(self, what: str) -> NoReturn:
        """Raise the one error there is."""
        raise DselectError(f"not a sound fastText model: {what}", where=self.path)

    def require(self, sound: bool, what: str) -> None:
        """Refuse the file unless something holds."""
        if not sound:
            self.refuse(what)


def read(path: str) -> Layout:
    """Check a model file to its last byte and return what it holds; DselectError if anything in it cannot be."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except FileNotFoundError as error:
        raise DselectError("no such model file", where=path, way_out="--save makes one") from error
    except (OSError, ValueError) as error:
        raise DselectError(f"cannot read this model: {error}", where=path) from error
    return _layout(_Reader(path, data))


def _layout(reader: _Reader) -> Layout:
    if len(reader.data) < 8 or reader.take("i", "its mark") != (MAGIC,):
        raise DselectError("not a fastText model", where=reader.path, way_out="a .bin or .ftz of its library")
    (version,) = reader.take("i", "its version")
    reader.require(version in VERSIONS, f"its version is {version}, not 11 or 12")
    dim, _, _, _, _, ngrams, loss, kind, buckets, shortest, longest, _, _ = reader.take("12id", "its settings")
    if kind != SUPERVISED:
        name = {1: "cbow", 2: "skipgram"}.get(kind)
        reader.require(name is not None, f"its kind is {kind}")
        raise DselectError(f"word vectors ({name}), not a classifier", where=reader.path, way_out="supervised models")
    reader.require(loss in LOSSES, f"its loss is number {loss}")
    reader.require(0 < dim <= MOST["dim"], f"its vectors have {dim} dimensions")
    reader.require(0 < ngrams <= MOST["ngrams"], f"its longest n-gram is of {ngrams} words")
    longest = 0 if version == min(VERSIONS) else max(longest, 0)  # as the library: such models know no subwords
    reader.require(longest <= MOST["longest"], f"its longest subword is of {longest} characters")
    reader.require(buckets > 0 or (buckets == 0 and ngrams == 1 and not longest), f"it has {buckets} buckets")
    entries, words, labels, _, kept = reader.take("3i2q", "its dictionary")
    room = len(reader.data) - reader.at
    reader.require(
        words >= 0 and labels > 0 and entries == words + labels and entries * 10 <= room,
        f"its dictionary claims {entries} entries, {words} words and {labels} labels",
    )
    reader.require(kept >= -1 and kept * 8 <= room, f"it claims {kept} features that were kept")
    letters, ends, names = _dictionary(reader, entries, words, loss)
    pruned = _pruned(reader, kept, buckets) if kept >= 0 else None
    (quantised,) = reader.take("B", "its flags")
    reader.require(quantised in (0, 1), "a flag is neither yes nor no")
    reader.require(bool(quantised) or pruned is None, "features were pruned, but its vectors are whole")
    inputs = _vectors(reader, bool(quantised), "the vectors of words")
    (also,) = reader.take("B", "its flags")
    reader.require(also in (0, 1), "a flag is neither yes nor no")
    outputs = _vectors(reader, bool(quantised and also), "the vectors of labels")
    reader.require(reader.at == len(reader.data), f"{len(reader.data) - reader.at:,} bytes follow its end")
    wanted = words + (buckets if pruned is None else kept)
    rows = inputs.rows == wanted or (inputs.rows == words and ngrams == 1 and not longest)
    reader.require(rows, f"it has {inputs.rows} vectors for {wanted} features")
    reader.require(outputs.rows == labels, f"it has {outputs.rows} vectors for {labels} labels")
    reader.require(inputs.columns == outputs.columns == dim, "its vectors are not of the dimension it says")
    return Layout(
        reader.path, len(reader.data), dim, loss, ngrams, buckets, max(shortest, 0), longest, words, names,
        (letters, ends), pruned, inputs, outputs,
    )  # fmt: skip


def _dictionary(reader: _Reader, entries: int, words: int, loss: int) -> tuple[Array, Array, tuple[str, ...]]:
    from dselect.kernels.fasttext import read_words

    try:
        data = np.frombuffer(reader.data, np.uint8)
        letters, ends, counts, reader.at = read_words(data, reader.at, entries, words)
    except ValueError as error:
        reader.refuse(str(error))
    sound = (counts >= 0).all() and (loss != HIERARCHICAL or float(counts[words:].sum(dtype=np.float64)) < 1e15)
    reader.require(bool(sound), "its dictionary counts what cannot be")
    begins = [int(ends[words - 1]) if words else 0, *map(int, ends[words:-1])]
    names = [
        bytes(letters[a:b]).decode("utf-8", "replace") for a, b in zip(begins, map(int, ends[words:]), strict=True)
    ]
    reader.require(len(set(names)) == len(names), "two of its labels are the same")
    return letters, ends, tuple(names)


def _pruned(reader: _Reader, kept: int, buckets: int) -> Array:
    at = reader.skip(kept * 8, "the features it keeps")
    pairs = np.frombuffer(reader.data, "<i4", 2 * kept, at).reshape(kept, 2)
    inside = (pairs >= 0).all() and (pairs[:, 0] < buckets).all() and (pairs[:, 1] < kept).all()
    reader.require(bool(inside), "it keeps features that it does not have")
    reader.require(len(np.unique(pairs[:, 0])) == kept, "it keeps a feature twice")
    return pairs


def _vectors(reader: _Reader, quantised: bool, what: str) -> Vectors:
    if not quantised:
        rows, columns = reader.take("2q", what)
        reader.require(rows >= 0 and 0 < columns <= MOST["dim"], f"{what} are {rows} times {columns}")
        return Vectors(rows, columns, reader.skip(rows * columns * 4, what))
    with_norms, rows, columns, size = reader.take("B2qi", what)
    reader.require(with_norms in (0, 1) and rows >= 0 and 0 < columns <= MOST["dim"], f"{what} cannot be")
    codes = reader.skip(size, what)
    width, parts, centroids = _quantiser(reader, columns, what)
    reader.require(size == rows * parts, f"{what} have {size} codes for {rows} rows")
    if not with_norms:
        return Vectors(rows, columns, codes, width, parts, centroids)
    norms = reader.skip(rows, what)
    return Vectors(rows, columns, codes, width, parts, centroids, norms, _quantiser(reader, 1, what)[2])


def _quantiser(reader: _Reader, columns: int, what: str) -> tuple[int, int, int]:
    dim, parts, width, last = reader.take("4i", what)
    sound = dim == columns and 0 < width <= dim and parts == -(-dim // width) and last == dim - (parts - 1) * width
    reader.require(sound, f"{what} are cut into {parts} parts of {width}")
    return width, parts, reader.skip(dim * CENTROIDS * 4, what)


def _chunks(data: Any, vectors: Vectors) -> Any:
    """Yield float32 rows, some at a time: quantised ones are put together again."""
    step = max(CHUNK // (4 * vectors.columns), 1)
    decode = _decoder(data, vectors) if vectors.width else None
    for first in range(0, vectors.rows, step):
        count = min(step, vectors.rows - first)
        if decode:
            yield decode(first, count)
        else:
            at, size = vectors.at + first * vectors.columns * 4, count * vectors.columns * 4
            yield np.frombuffer(data[at : at + size], "<f4").reshape(count, vectors.columns)  # a copy: aligned


def _decoder(data: Any, vectors: Vectors) -> Any:
    def floats(at: int, count: int) -> Array:
        return np.frombuffer(data[at : at + 4 * count], "<f4")

    book = floats(vectors.centroids, CENTROIDS * vectors.columns)
    scale = floats(vectors.norm_centroids, CENTROIDS) if vectors.norms else None

    def decode(first: int, count: int) -> Array:
        codes = np.frombuffer(data, np.uint8, count * vectors.parts, vectors.at + first * vectors.parts)
        codes = codes.reshape(count, vectors.parts)
        rows = np.empty((count, vectors.columns), np.float32)
        for part in range(vectors.parts):
            begin = part * vectors.width
            end = min(begin + vectors.width, vectors.columns)
            of_part = book[CENTROIDS * begin : CENTROIDS * end].reshape(CENTROIDS, end - begin)
            rows[:, begin:end] = of_part[codes[:, part]]
        if scale is not None:
            rows *= scale[np.frombuffer(data, np.uint8, count, vectors.norms + first)][:, None]
        return rows

    return decode


class FastText:
    """A classifier's probability of one label, from tables of scalars.

    p as the library's `predict` gives it for the text with its newlines replaced by spaces, within 1e-5 for softmax,
    and never above 1. A text without any known feature, of which the library says nothing, gets the p of logits 0.
    The arrays travel to processes that start as a file without a name, which they map.
    """

    def __init__(self, layout: Layout, label: str) -> None:
        self.path, self.label = layout.path, label
        self.ngrams, self.shortest, self.longest = layout.ngrams, layout.shortest, layout.longest
        self.softmax, self.number = layout.loss == SOFTMAX, layout.labels.index(label)
        self.table = _collapse(layout, self.softmax, self.number)
        self._file: Any = None

    def probabilities(self, texts: Sequence[bytes]) -> Floats:
        """Return the probability of the label for every text, UTF-8: float64 (n,), in 0 … 1."""
        from dselect.kernels import fasttext as kernel

        sums, features = kernel.sum_features(texts, self.table, self.ngrams, self.shortest, self.longest)
        return kernel.softmax(sums, features, self.number) if self.softmax else kernel.sigmoid(sums, features)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the arrays in a file without a name, so that however the processes end nothing is left of it.

        What goes to another machine, and not to a process that starts here, takes them along.
        """
        if get_spawning_popen() is None:
            return {**self.__dict__, "_file": None}
        if self._file is None:
            self._file = tempfile.TemporaryFile()
            self._file.write(tables.to_bytes("fasttext-table", {}, self.table))
            self._file.flush()
        return {**self.__dict__, "table": None, "_file": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the arrays that the sender left."""
        self.__dict__.update({**state, "_file": None})
        if state["_file"] is None:
            return
        descriptor = state["_file"].detach()
        try:
            _, self.table = tables.load_mapped(f"/dev/fd/{descriptor}", "fasttext-table")
        finally:
            os.close(descriptor)


def why_not(layout: Layout) -> str | None:
    """Say why a model cannot be collapsed to scalars; None if it can."""
    if layout.loss == HIERARCHICAL:
        return "hierarchical softmax"
    if layout.loss == SOFTMAX and len(layout.labels) > layout.dim:
        return f"a softmax over {len(layout.labels)} labels"
    return None


def _collapse(layout: Layout, softmax: bool, number: int) -> Mapping[str, Array]:
    """Return the table of a model: what `kernels.fasttext.sum_features` adds up."""
    from dselect.kernels import fasttext as kernel

    with Path(layout.path).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(data) != layout.size:
        raise DselectError("the model changed while it was read", where=layout.path)
    labels = np.concatenate(list(_chunks(data, layout.outputs))).astype(np.float64)
    if not softmax:
        weights = labels[number : number + 1]
    elif len(labels) == 2:
        weights = labels[number : number + 1] - labels[1 - number]
    else:
        weights = labels
    weights = np.ascontiguousarray(weights)
    values = np.empty((layout.inputs.rows, len(weights)), np.float32)
    at = 0
    for rows in _chunks(data, layout.inputs):
        values[at : at + len(rows)] = kernel.project(rows, weights)
        at += len(rows)
    if not np.isfinite(values).all():
        raise DselectError("not a sound fastText model: a number in it is not finite", where=layout.path)
    if not layout.uses_buckets:
        values = values[: layout.words]
    elif layout.pruned is not None:
        kept, values = values, np.full((layout.words + layout.buckets, len(weights)), np.nan, np.float32)
        values[: layout.words] = kept[: layout.words]
        values[layout.words + layout.pruned[:, 0]] = kept[layout.words + layout.pruned[:, 1]]
    letters, ends = layout.dictionary
    features = np.ones(layout.words, np.uint32)
    if layout.longest:
        words, buckets = values[: layout.words], values[layout.words :]
        values[: layout.words], features = kernel.with_subwords(
            letters, ends, layout.words, buckets, words, layout.shortest, layout.longest
        )
    table = {"values": values, "slots": kernel.slots_of(letters, ends), "features": features}
    return table if layout.pruned is None else {**table, "pruned": np.ones(1, np.uint8)}


class Library:
    """A classifier's probability of one label, asked of the library: for models that are no sums of scalars."""

    def __init__(self, layout: Layout, label: str) -> None:
        self.path, self.label, self.labels = layout.path, label, len(layout.labels)
        self._model: Any = None

    def probabilities(self, texts: Sequence[bytes]) -> Floats:
        """Return the probability of the label for every text, UTF-8: float64 (n,), 0 … 1; 0 where below 1e-5."""
        if self._model is None:
            self._model = load(self.path)
        found = np.zeros(len(texts))
        for number, text in enumerate(texts):
            pairs = self._model.f.predict(text.decode().replace("\n", " ") + "\n", self.labels, 0.0, "strict")
            if not pairs:  # no known feature
                found[number] = 1 / self.labels
            for p, label in pairs:
                if label == self.label:
                    found[number] = min(p, 1.0)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind: the receiver loads it again."""
        return {**self.__dict__, "_model": None}


def load(path: str) -> Any:
    """Return the library's own model of a file that `read` has checked."""
    import fasttext

    return fasttext.load_model(path)

"""A language model of bytes: interpolated n-gram counts.

MacKay and Peto 1995, "A hierarchical Dirichlet language model". With N the counts,

    p_n(c | context) = (N(context, c) + μ_n p_{n-1}(c | shorter context)) / (N(context) + μ_n)

down to p_0 = 1/256, where N(context) = Σ_c N(context, c), so the 256 probabilities sum to 1 after any context. N-grams
never cross texts: byte i of a text (from 1) is predicted by the orders 1 to min(i, n), and there is no padding byte.
The μ are fitted by held-out likelihood: each of some texts is predicted from the counts of all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dselect.errors import DselectError, NotFitted
from dselect.models import tables

if TYPE_CHECKING:
    from dselect.kernels.byte_ngrams import Starts
    from dselect.kernels.byte_tries import LookUp, Trie

HELD_OUT = 1 << 17  # bytes of text that the μ are fitted on
UNIFORM = 8.0  # bits per byte of a byte that could be any: what the empty text is said to cost
_MU = (1.0, 64.0, 64.0, 32.0, 16.0, 8.0, 8.0, 8.0)  # where the search begins; without held-out text, where it ends
_LOWEST, _HIGHEST = 2.0**-6, 2.0**20

Arrays = Mapping[str, np.ndarray[Any, Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class ByteLM:
    """The model. `mu_`: float64 (order,); `trie_`: the counts of all orders."""

    def __init__(self, order: int = 6) -> None:
        self.order = order
        self.mu_: Floats | None = None
        self.trie_: Trie | None = None
        self._look_up: LookUp | None = None
        self.file_: tuple[str, str, str] | None = None  # where it was loaded from: workers map it too
        self.stamp_: tuple[int, ...] = ()

    def fit(self, starts: Starts, held_out: Sequence[bytes], mu: Floats | None = None) -> ByteLM:
        """Learn from the counts of all texts; held_out: some of those texts; mu: where the search for μ begins."""
        from dselect.kernels import byte_tries

        self.trie_ = byte_tries.trie(starts)
        self.mu_ = np.array(_MU[: self.order] if mu is None else mu)
        if held_out:
            seen = [self._without([text], 1).seen(text) for text in held_out]
            self.mu_ = _climb(np.concatenate(seen), self.mu_)
        self.mu_.setflags(write=False)
        return self

    @property
    def fitted(self) -> tuple[Trie, Floats]:
        """Return the counts and the μ; NotFitted if there are none."""
        if self.trie_ is None or self.mu_ is None:
            raise NotFitted("this language model has not been fitted")
        return self.trie_, self.mu_

    def bits(self, texts: Sequence[bytes]) -> Floats:
        """Return -log2 of the probability of every text: float64 (n,), in bits; 0 for the empty text."""
        from dselect.kernels import byte_tries

        trie, mu = self.fitted
        if self._look_up is None:
            self._look_up = byte_tries.look_up(trie, self.order)
        return byte_tries.bits(texts, trie, self._look_up, mu)

    def bits_without(self, text: bytes, times: int = 1) -> float:
        """Return -log2 of the probability of a text by the counts of the other texts only; it was counted `times`."""
        return float(self._without([text], times).bits(text, self.fitted[1]))

    def bits_leaving_out(self, texts: Sequence[bytes], left_out: Sequence[bytes]) -> Floats:
        """Return -log2 of the probability of every text by the counts of all but some of those it was fitted to.

        left_out: texts that were counted once each. Returns float64 (n,), in bits.
        """
        without, (_, mu) = self._without(left_out, 1), self.fitted
        return np.array([float(without.bits(text, mu)) for text in texts])

    def loss(self, texts: Sequence[bytes]) -> Floats:
        """Return the bits per byte of every text: float64 (n,); 8.0 for the empty text."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        return np.where(sizes == 0, UNIFORM, self.bits(texts) / np.maximum(sizes, 1))

    def probabilities(self, context: bytes) -> Floats:
        """Return the probability of every byte after these bytes, at the start of a text: float64 (256,)."""
        after = self.bits([context + bytes([byte]) for byte in range(256)])
        return np.asarray(2 ** (self.bits([context]) - after))

    def starts(self) -> Starts:
        """Return the counts it was fitted to: they add."""
        from dselect.kernels import byte_tries

        return byte_tries.starts_of(self.fitted[0], self.order)

    def _without(self, texts: Sequence[bytes], times: int) -> Any:
        from dselect.kernels import byte_ngrams, byte_tries

        own = byte_tries.trie(byte_ngrams.count(texts, self.order))
        assert self.trie_ is not None
        return byte_tries.Without(self.trie_, own, times, self.order)

    def arrays(self) -> Arrays:
        """Return what a file holds of the model."""
        trie, mu = self.fitted
        return {**trie._asdict(), "mu": mu}

    @classmethod
    def _from_arrays(cls, arrays: Arrays, order: Any, path: str, check: bool) -> ByteLM:
        from dselect.kernels import byte_ngrams, byte_tries

        model = cls(order)
        try:
            trie = byte_tries.Trie(arrays["labels"], arrays["counts"], arrays["inner"])
            model.trie_, model.mu_ = trie, arrays["mu"]
        except KeyError as error:
            raise DselectError(f"not a sound language model: no {error}", where=path) from error
        if not check:
            return model
        if not isinstance(order, int) or not 1 <= order <= byte_ngrams.LONGEST:
            raise DselectError("not a sound language model: its order is not 1 to 8", where=path)
        mu = model.mu_
        if mu.dtype != np.float64 or mu.shape != (order,) or not ((mu >= _LOWEST) & (mu <= _HIGHEST)).all():
            raise DselectError("not a sound language model: its smoothing is out of range", where=path)
        if flaw := byte_tries.flaw(*trie, order):
            raise DselectError(f"not a sound language model: {flaw}", where=path)
        return model

    def to_bytes(self) -> bytes:
        """Return the fitted model as one safetensors file."""
        return tables.to_bytes("byte-lm", {"order": self.order}, self.arrays())

    @classmethod
    def load(cls, path: str, kind: str = "byte-lm", prefix: str = "", *, check: bool = True) -> ByteLM:
        """Map a model into memory that `to_bytes` wrote; DselectError if the file holds none, or one that is not sound.

        Of another kind of file that holds it, prefix is how the names of its arrays begin.
        """
        settings, arrays = tables.load_mapped(path, kind)
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        model = cls._from_arrays(own, settings.get("order"), path, check)
        model.file_, model.stamp_ = (path, kind, prefix), _stamp(path)
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the receiver finds in the file."""
        dropped = {"_look_up": None, **({"trie_": None, "mu_": None} if self.file_ else {})}
        return {**self.__dict__, **dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file that the sender loaded, which checked it."""
        self.__dict__.update(state)
        if self.file_:
            if _stamp(self.file_[0]) != self.stamp_:
                raise DselectError("the model changed while it was in use", where=self.file_[0], way_out="run again")
            loaded = ByteLM.load(*self.file_, check=False)
            self.trie_, self.mu_ = loaded.trie_, loaded.mu_


def _stamp(path: str) -> tuple[int, ...]:
    status = Path(path).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class Tally:
    """Counts that texts are added to, block by block, in bounded memory.

    Counts of similar size are merged, as the digits of a binary counter carry, so a byte is copied log(blocks) times.
    most: how many n-grams may be held. When there are more, the rare ones are cut shorter (`pruned`), those that occur
    once first; `rare_` says up to how often one may have occurred and be gone.
    """

    def __init__(self, order: int, most: int) -> None:
        self.order, self.most = order, most
        self.rare_ = 0
        self._parts: list[Starts] = []

    def add(self, starts: Starts) -> None:
        """Add counts."""
        from dselect.kernels import byte_ngrams

        self._parts.append(starts)
        size = byte_ngrams.size
        while len(self._parts) > 1 and size(self._parts[-2]) < 2 * size(self._parts[-1]):
            last = self._parts.pop()
            self._parts[-1] = byte_ngrams.add(self._parts[-1], last)
        if sum(map(size, self._parts)) > self.most:
            self._prune()

    def _prune(self) -> None:
        from dselect.kernels import byte_ngrams

        starts, rare = self.total(), 0
        while byte_ngrams.size(starts) > self.most // 2 and rare < 2**62:
            rare = 2 * rare or 1
            starts = byte_ngrams.pruned(starts, rare)
        self.rare_ = max(self.rare_, rare)
        self._parts = [starts]

    def total(self) -> Starts:
        """Return the counts of all texts."""
        from dselect.kernels import byte_ngrams

        total = byte_ngrams.nothing(self.order)
        for starts in reversed(self._parts):
            total = byte_ngrams.add(total, starts)
        self._parts = [total]
        return total


def _climb(seen: Floats, mu: Floats) -> Floats:
    """Return the μ that predict the held-out bytes best: by factors of 2, then of 2^¼, one at a time, uphill."""
    from dselect.kernels.byte_tries import interpolated

    mu = mu.copy()
    best = interpolated(seen, mu)
    for factor in (2.0, 2.0**0.25):
        better = True
        while better:
            better = False
            for k in range(len(mu)):
                for step in (factor, 1 / factor):
                    while True:
                        tried = mu.copy()
                        tried[k] *= step
                        if not _LOWEST <= tried[k] <= _HIGHEST:
                            break
                        found = interpolated(seen, tried)
                        if not found < best * (1 - 1e-6):
                            break
                        mu, best, better = tried, found, True
    return mu

"""Judgments: which of two texts is the better by some criterion, and how sure that is. Written, read, and drawn for.

A judgment is a line of JSON with `text_a` and `text_b` as they were judged, `criterion`, `p_b` (the probability that b
is the better, 0 to 1) and `votes` (how many answers that comes from); `id_a` and `id_b` where the texts have them. The
layout that QuRating publishes is read too: `texts`, and for each criterion a matrix CRITERION_average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from dselect import draws
from dselect.errors import DselectError
from dselect.models import bradley_terry
from dselect.pool import Pool
from dselect.records.batch import Batch, lookup
from dselect.records.decompression import chunks
from dselect.records.reading import blocks
from dselect.records.sources import discover

MOST, LEAST = 512, 256  # words of an excerpt (Wettig et al. 2024, section 3.1, has tokens of Llama 2)
_PUBLISHED = "_average"  # of the field that holds a criterion's matrix in QuRating's layout
_MISSING = -100.0  # in it

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True, order=True)
class Judgment:
    """Two texts and the probability that the second is the better."""

    text_a: str
    text_b: str
    p_b: float
    votes: int = 1
    criterion: str = ""
    id_a: Any = None
    id_b: Any = None

    def line(self) -> bytes:
        """Return it as a line of JSON, without the newline."""
        found = {"id_a": self.id_a, "id_b": self.id_b, "criterion": self.criterion, "p_b": self.p_b}
        found |= {"votes": self.votes, "text_a": self.text_a, "text_b": self.text_b}
        return orjson.dumps({name: value for name, value in found.items() if value is not None})


@dataclass(frozen=True)
class Comparisons:
    """Judgments of one criterion: texts, each once, and pairs of their positions.

    texts: in order of code points. pairs: int64 (n, 2), the positions of a and b. p: float64 (n,), that b is better.
    """

    texts: list[str]
    pairs: Ints
    p: Floats

    @classmethod
    def of(cls, judgments: Sequence[Judgment]) -> Comparisons:
        """Return judgments as arrays, in an order that depends on what they say alone."""
        ordered = sorted((one.text_a, one.text_b, one.p_b) for one in judgments)
        texts = sorted({text for a, b, _ in ordered for text in (a, b)})
        at = {text: position for position, text in enumerate(texts)}
        pairs = np.array([(at[a], at[b]) for a, b, _ in ordered], np.int64).reshape(-1, 2)
        return cls(texts, pairs, np.array([p for _, _, p in ordered], np.float64))

    def confident(self, least: float) -> Comparisons:
        """Return those with |p - 1/2| >= least / 2 and their texts (Wettig et al. 2024, section 3.2)."""
        kept = np.abs(self.p - 0.5) >= least / 2
        used, pairs = np.unique(self.pairs[kept], return_inverse=True)
        return Comparisons([self.texts[i] for i in used.tolist()], pairs.reshape(-1, 2), self.p[kept])


@dataclass(frozen=True)
class Labels:
    """What is learnt from, of all that was judged: the sure ones, with log-odds divided by a temperature.

    Judgments with |p - 1/2| < confidence / 2 are left out.
    """

    confidence: float = 0.5
    temperature: float = 1.0

    def sure(self, judged: Mapping[str, Comparisons]) -> tuple[dict[str, Comparisons], list[str]]:
        """Return the sure ones of each criterion, as pairs of positions in the list of all their texts, and that."""
        kept = {name: one.confident(self.confidence) for name, one in judged.items()}
        texts = sorted({text for one in kept.values() for text in one.texts})
        place = {text: at for at, text in enumerate(texts)}
        found = {}
        for name, one in kept.items():
            at = np.array([place[text] for text in one.texts], np.int64)
            found[name] = Comparisons(texts, at[one.pairs], one.p)
        return found, texts

    def temper(self, p: Floats) -> Floats:
        """Return labels as they are learnt from."""
        return bradley_terry.tempered(p, self.temperature)


def read(names: Sequence[str]) -> dict[str, list[Judgment]]:
    """Read judgments from files or folders, in either layout; return them by criterion, in order of its name.

    DselectError for a line that is no judgment, and where there are none. Pairs that QuRating's layout marks as
    missing are left out.
    """
    found: dict[str, list[Judgment]] = {}
    for number, source in enumerate(discover(names)):
        for block in blocks(number, source, chunks(source)):
            for line_number, line in enumerate(block.data.split(b"\n"), block.first_line):
                if not line or line.isspace():
                    continue
                try:
                    for one in _parsed(line):
                        found.setdefault(one.criterion, []).append(one)
                except ValueError as error:
                    raise DselectError(
                        str(error), where=f"{source.name}:{line_number}", way_out="dselect judge makes judgments"
                    ) from error
    if not found:
        raise DselectError("no judgments", where=names[0] if names else None, way_out="dselect judge makes some")
    return {name: found[name] for name in sorted(found)}


def _parsed(line: bytes) -> Iterator[Judgment]:
    """Yield the judgments of a line; ValueError with what is wrong with it."""
    try:
        record = orjson.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("not a judgment but no object at all")
    if "texts" in record:
        yield from _published(record)
        return
    a, b = record.get("text_a"), record.get("text_b")
    if not isinstance(a, str) or not isinstance(b, str):
        raise ValueError("no judgment: text_a and text_b must be texts")
    criterion = record.get("criterion", "")
    votes = record.get("votes", 1)
    if not isinstance(criterion, str) or isinstance(votes, bool) or not isinstance(votes, int):
        raise ValueError("no judgment: criterion must be a text, and votes a whole number")
    yield Judgment(a, b, _probability(record.get("p_b")), votes, criterion, record.get("id_a"), record.get("id_b"))


def _published(record: Mapping[str, Any]) -> Iterator[Judgment]:
    """Yield the judgments of a row of QuRating's data set: every pair of its texts, by every criterion it has."""
    texts = record["texts"]
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise ValueError("no judgment: texts must be a list of two texts or more")
    criteria = [name for name in record if name.endswith(_PUBLISHED)]
    if not criteria:
        raise ValueError(f"no judgment: texts, but no CRITERION{_PUBLISHED}")
    for name in criteria:
        matrix = record[name]
        for a in range(len(texts)):
            for b in range(a + 1, len(texts)):
                try:
                    p = matrix[a][b]
                except (TypeError, LookupError) as error:
                    raise ValueError(f"no judgment: {name} is no matrix of {len(texts)} texts") from error
                if p != _MISSING:
                    yield Judgment(texts[a], texts[b], _probability(p), 1, name.removesuffix(_PUBLISHED))


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("no judgment: the probability of b must be a number from 0 to 1")
    return float(value)


# -- pairs to be judged


@dataclass(frozen=True)
class Describe:
    """What pairs are drawn by, of every record: the work of the first pass."""

    grade: str | None = None
    within: str | None = None

    def __call__(self, batch: Batch) -> tuple[Keys, Keys, Keys, Floats, list[str | None], Any]:
        """Return identities, ties, hashes of the texts, grades (0 without), domains, and which records will do."""
        grades: Floats = np.zeros(len(batch)) if self.grade is None else batch.column(self.grade)
        domains: list[str | None] = batch.labels(self.within) if self.within else [""] * len(batch)
        usable = np.array([not text.isspace() and bool(text) for text in batch.texts], bool)
        usable &= np.isfinite(grades) & np.array([domain is not None for domain in domains], bool)
        return batch.identities, batch.ties, batch.text_hashes, grades, domains, usable


class Side(NamedTuple):
    """One of the two excerpts of a pair."""

    text: str
    id: Any
    grade: float


Pair = tuple[Side, Side]


def draw(pool: Pool, work: Describe, count: int, seed: int) -> tuple[list[Pair], int]:
    """Draw so many pairs of excerpts, as many as there are at the most; return how many records cannot be in one too.

    Records without the grade or the domain, without a word, and with the text of another cannot. Two passes.
    """
    parts = [found for _, found in pool.map(work, "drawing")]
    if not parts:
        return [], 0
    identities, ties, hashes, grades, usable = (
        np.concatenate([part[i] for part in parts]) for i in (0, 1, 2, 3, 5)
    )  # fmt: skip
    labels = [label for part in parts for label in part[4]]
    order = np.lexsort((ties, hashes))
    order = order[usable[order]]
    firsts = np.ones(len(order), bool)
    firsts[1:] = hashes[order][1:] != hashes[order][:-1]
    at = np.sort(order[firsts])
    _, domains = np.unique(np.array([labels[i] for i in at.tolist()], str), return_inverse=True)
    pairs = at[draw_pairs(identities[at], ties[at], domains.reshape(-1), count, seed)]
    sides = _excerpts(pool, pairs, identities, seed)
    graded = [Side(*side, float(grades[i])) for side, i in zip(sides, pairs.reshape(-1).tolist(), strict=True)]
    return list(zip(graded[::2], graded[1::2], strict=True)), len(labels) - len(at)


def draw_pairs(identities: Keys, ties: Keys, domains: Ints, count: int, seed: int) -> Ints:
    """Return so many pairs of positions, int64 (count, 2), both of one domain and no pair twice; or all there are.

    They are drawn in rounds, each of which puts every record into one pair, but for pairs of an earlier round: no
    record is in a second pair before all have been in one.
    """
    sizes = np.bincount(domains)
    possible = int((sizes * (sizes - 1) // 2).sum())
    if 2 * count > possible:
        return _all_pairs(identities, ties, domains, count, seed)
    found: dict[tuple[int, int], None] = {}  # in the order they were drawn
    seen: set[tuple[int, int]] = set()
    number = 0
    while len(found) < count:
        drawn = draws.uniform(seed, f"judge {number}", identities)
        order = np.lexsort((ties, drawn, domains))
        starts = np.searchsorted(domains[order], domains[order])  # where the domain of each begins
        even = (np.arange(len(order)) - starts)[:-1] % 2 == 0
        at = np.flatnonzero(even & (domains[order][1:] == domains[order][:-1]))
        at = at[np.argsort(drawn[order[at]], kind="stable")]
        for a, b in zip(order[at].tolist(), order[at + 1].tolist(), strict=True):
            key = (min(a, b), max(a, b))
            if key not in seen and len(found) < count:
                seen.add(key)
                found[a, b] = None
        number += 1
    return np.array(list(found), np.int64).reshape(-1, 2)


def _all_pairs(identities: Keys, ties: Keys, domains: Ints, count: int, seed: int) -> Ints:
    """Return the pairs of a small pool with the lowest draws."""
    order = np.lexsort((ties, draws.uniform(seed, "judge", identities), domains))
    ends = np.cumsum(np.bincount(domains))
    sizes = np.diff(ends, prepend=0)
    pairs = []
    for end, size in zip(ends.tolist(), sizes.tolist(), strict=True):
        first, second = np.triu_indices(size, 1)
        pairs.append(np.stack([order[end - size + first], order[end - size + second]], axis=1))
    found = np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)
    keys = _both(identities, found)
    turned = draws.uniform(seed, "judge order", keys) < 0.5
    found[turned] = found[turned][:, ::-1]
    drawn = draws.uniform(seed, "judge pair", keys)
    return found[np.lexsort((ties[found[:, 1]], ties[found[:, 0]], drawn))[:count]]


def _both(identities: Keys, pairs: Ints) -> Keys:
    """Return a key of every pair: uint64 (n,)."""
    return np.asarray(identities[pairs[:, 0]] * np.uint64(0x9E3779B97F4A7C15) ^ identities[pairs[:, 1]])


def _excerpts(pool: Pool, pairs: Ints, identities: Keys, seed: int) -> list[tuple[str, Any]]:
    """Read the records of the pairs once more; return the excerpts and the ids, a and b in turn."""
    from dselect.kernels.windows import excerpt

    keys = _both(identities, pairs)
    # half are of 512 words, half of 256 to 512 (Wettig et al. 2024, section 3.1); both of a pair are of one length
    drawn = draws.uniform(seed, "judge length", keys)
    lengths = np.where(drawn < 0.5, MOST, LEAST + (2 * (drawn - 0.5) * (MOST - LEAST + 1)).astype(np.int64))
    places = np.stack([draws.uniform(seed, f"judge place {side}", keys) for side in "ab"], axis=1).reshape(-1)
    wanted: dict[int, list[int]] = {}
    for number, position in enumerate(pairs.reshape(-1).tolist()):
        wanted.setdefault(position, []).append(number)
    found: list[tuple[str, Any]] = [("", None)] * (2 * len(pairs))
    seen = 0
    for _, lines in pool.lines("cutting"):
        for position in range(seen, seen + len(lines)):
            if position in wanted:
                record = orjson.loads(lines[position - seen])
                text = lookup(record, pool.text_field).encode()
                for number in wanted[position]:
                    cut = excerpt(text, int(lengths[number // 2]), MOST, float(places[number]))
                    found[number] = cut.decode(), record.get("id")
        seen += len(lines)
    return found


def from_grades(pairs: Sequence[Pair], criterion: str, scale: float | None) -> list[Judgment]:
    """Return judgments of pairs by their grades: p_b is 0, 1/2 or 1; with a scale, 1 / (1 + exp((a - b) / scale))."""
    found = []
    for a, b in pairs:
        gap = b.grade - a.grade
        p = (1 + np.sign(gap)) / 2 if scale is None else _logistic(gap / scale)
        found.append(Judgment(a.text, b.text, float(p), 1, criterion, a.id, b.id))
    return found


def _logistic(gap: float) -> float:
    return 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0

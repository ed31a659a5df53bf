"""Proxies: small models that tell what a mixture of domains is worth for a target, before a large one is trained."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from dselect import draws, mixing
from dselect.engine import ordered_map
from dselect.errors import DselectError, UsageError
from dselect.mixtures.domains import Domains
from dselect.mixtures.mixture import Mixture
from dselect.mixtures.portions import Held
from dselect.models.byte_lm import HELD_OUT, ByteLM
from dselect.models.transformer import Size, device_here, train_and_test
from dselect.pool import Pool
from dselect.records.batch import Batch

if TYPE_CHECKING:
    from dselect.kernels.byte_mixtures import Automaton
    from dselect.kernels.byte_ngrams import Counted

PREFIXES = 64  # of each domain's seeded order, at which counts are kept
SMALLEST = 1e-3  # the first prefix, of the last one
SMOOTHED_ON = 4_000_000  # bytes of the pool that the smoothing is fitted on, at the most

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Drawn = tuple[float, int, bytes]  # draw, tie, text


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of a domain's seeded order: those of its records whose draw is at most that of `draws`.

    draws: float64 (p,), ascending; sizes: int64 (p,), the bytes of all texts of each.
    """

    draws: Floats
    sizes: Ints

    @classmethod
    def of(cls, held: Held, domain: int, budget: int) -> Prefixes:
        """Cut the order at sizes that grow by the same factor, the last at the budget or where the domain ends."""
        order = held.orders[domain]
        draw, sizes = held.draws[order], np.cumsum(held.sizes[order], dtype=np.int64)
        last = min(int(np.searchsorted(sizes, budget)), len(order) - 1)
        wanted = sizes[last] * np.geomspace(SMALLEST, 1.0, PREFIXES)
        cuts = np.unique(np.minimum(np.searchsorted(sizes, wanted), last))
        cuts = np.unique(np.searchsorted(draw, draw[cuts], side="right") - 1)  # equal draws are on the same side
        return cls(draw[cuts], sizes[cuts])

    def shares(self, size: float, whole: int) -> Floats:
        """Return how much of what each prefix adds a model has seen that read so many bytes: float64 (p,).

        Of a domain that holds less, whole: one for each epoch, and then a prefix again.
        """
        epochs, rest = divmod(size, whole) if whole else (0.0, 0.0)
        before = np.concatenate([[0], self.sizes[:-1]])
        steps = np.maximum(self.sizes - before, 1)
        return np.asarray(epochs + np.clip((rest - before) / steps, 0.0, 1.0))


@dataclass(frozen=True)
class CountTargets:
    """Counts of the target's n-grams by domain and prefix: the work of the pass that makes the n-gram proxy."""

    by: Automaton
    order: int
    seed: int
    domains: Domains
    names: Mapping[str, int]
    prefixes: Sequence[Prefixes]
    natural: Sequence[float]  # of each domain, the last draw of the texts that are handed back

    def __call__(self, batch: Batch) -> tuple[Counted, Counted, list[Drawn]]:
        """Return counts of longest n-grams and of last contexts by group, and texts for the smoothing."""
        from dselect.kernels.byte_mixtures import walk

        draw, ties = draws.uniform(self.seed, "mix", batch.identities), batch.ties
        domain = np.array([self.names.get(name or "", -1) for name in self.domains.of(batch)], np.int64)
        groups = np.full(len(batch), -1, np.int64)
        for k in np.unique(domain[domain >= 0]):
            at = domain == k
            place = np.searchsorted(self.prefixes[k].draws, draw[at])
            groups[at] = np.where(place < len(self.prefixes[k].draws), k * PREFIXES + place, -1)
        wanted = np.flatnonzero(groups >= 0)
        hits, lasts = walk(self.by, [batch.utf8[i] for i in wanted], groups[wanted], self.order)
        last = np.asarray([*self.natural, -1.0])  # the last one is of records of no domain
        near = np.flatnonzero(draw <= last[domain]).tolist()
        return hits, lasts, [(float(draw[i]), int(ties[i]), batch.utf8[i]) for i in near]


class NgramProxy:
    """What a byte n-gram model would make of the targets, had it been trained on a mixture: no model is trained.

    For each domain, counts of the targets' own n-grams in 64 prefixes of one seeded order; a mixture's counts are
    interpolated between prefixes and added. They are those of an `lm` fitted to these prefixes. The smoothing is what
    `lm` fits to the pool in proportion, of as many bytes as a mixture has, and the same for all mixtures. `mu_`.
    """

    def __init__(
        self, pool: Pool, held: Held, domains: Domains, targets: Sequence[Sequence[bytes]], budget: int, order: int
    ) -> None:
        from dselect.kernels import byte_mixtures as kernel

        self.budget, self.totals = budget, held.totals
        self.prefixes = [Prefixes.of(held, k, budget) for k in range(len(held.names))]
        self._by = kernel.automaton([text for texts in targets for text in texts], order)
        self._uses = [kernel.uses(self._by, texts, order) for texts in targets]
        self._sizes = [sum(map(len, texts)) for texts in targets]
        names = {name: k for k, name in enumerate(held.names)}
        natural = [
            _last_draw(held, k, part)
            for k, part in enumerate(mixing.budgets(self.totals, min(budget, SMOOTHED_ON, sum(self.totals))))
        ]
        work = CountTargets(self._by, order, held.seed, domains, names, self.prefixes, natural)
        hits, lasts = _Sum(), _Sum()
        texts: list[Drawn] = []
        for _, (more, ends, some) in pool.map(work, "counting"):
            hits.add(more)
            lasts.add(ends)
            texts += some
        groups = len(names) * PREFIXES
        self._hits, self._lasts = (kernel.grouped(one.total(), groups) for one in (hits, lasts))
        self.mu_ = smoothing([text for _, _, text in sorted(texts)], order)

    def measure(self, mixtures: Sequence[Floats]) -> Iterator[tuple[int, list[float]]]:
        """Yield (number, the bits per byte of each target) for every mixture, after training on `budget` bytes."""
        for number, weights in enumerate(mixtures):
            yield number, self.bits(weights)

    def bits(self, weights: Floats) -> list[float]:
        """Return the bits per byte of each target after training on a mixture."""
        from dselect.kernels.byte_mixtures import probabilities

        shares = np.zeros(len(self.prefixes) * PREFIXES)
        size = 0.0
        for k, prefixes in enumerate(self.prefixes):
            found = prefixes.shares(float(weights[k]) * self.budget, self.totals[k])
            shares[k * PREFIXES : k * PREFIXES + len(found)] = found
            size += float((found * np.diff(prefixes.sizes, prepend=0)).sum())
        bits = -np.log2(probabilities(self._by, self._hits, self._lasts, shares, size, self.mu_))
        return [
            float((bits[nodes.astype(np.int64)] * counts).sum()) / bytes_
            for (nodes, counts), bytes_ in zip(self._uses, self._sizes, strict=True)
        ]


@dataclass(frozen=True)
class TakeTexts:
    """The texts of each domain's beginning: the work of the pass that makes the transformer's proxy."""

    seed: int
    domains: Domains
    names: Mapping[str, int]
    last: Sequence[float]  # of each domain, the last draw of the texts that are taken

    def __call__(self, batch: Batch) -> list[tuple[int, float, int, bytes]]:
        """Return (domain, draw, tie, text) of every record at or before its domain's last draw."""
        draw, ties = draws.uniform(self.seed, "mix", batch.identities), batch.ties
        domain = [self.names.get(name or "", -1) for name in self.domains.of(batch)]
        return [
            (k, float(draw[i]), int(ties[i]), batch.utf8[i])
            for i, k in enumerate(domain)
            if k >= 0 and draw[i] <= self.last[k]
        ]


@dataclass(frozen=True)
class TrainOn:
    """Trains a transformer on a mixture and tests it: the work of a process. Texts stand by domain, in their order."""

    texts: Sequence[Sequence[bytes]]
    targets: Sequence[Sequence[bytes]]
    budget: int
    steps: int
    seed: int
    size: Size

    def __call__(self, weights: Floats) -> list[float]:
        """Return the bits per byte of each target."""
        import torch

        torch.set_num_threads(1)  # as many processes as cores; and sums do not depend on how many that are
        every = [text for texts in self.targets for text in texts]
        bits = train_and_test(self.mixed(weights), every, self.steps, self.seed, self.size)
        ends = np.cumsum([len(texts) for texts in self.targets])[:-1]
        return [
            float(part.sum()) / sum(map(len, texts))
            for part, texts in zip(np.split(bits, ends), self.targets, strict=True)
        ]

    def mixed(self, weights: Floats) -> list[bytes]:
        """Return the texts of a mixture; of each domain a beginning, repeated where it is short, cut where it ends."""
        found = []
        for texts, share in zip(self.texts, mixing.budgets(weights.tolist(), self.budget), strict=True):
            left, at = share, 0
            while left > 0 and any(texts):
                text = texts[at % len(texts)][:left]
                found.append(text)
                left -= len(text)
                at += 1
        return found


class TransformerProxy:
    """What a small transformer makes of the targets once it was trained on a mixture, from the same start each time."""

    def __init__(
        self,
        pool: Pool,
        held: Held,
        domains: Domains,
        targets: Sequence[Sequence[bytes]],
        budget: int,
        steps: int,
        size: Size,
        jobs: int,
    ) -> None:
        device_here()
        names = {name: k for k, name in enumerate(held.names)}
        last = [float(Prefixes.of(held, k, budget).draws[-1]) for k in range(len(names))]
        found: list[list[tuple[float, int, bytes]]] = [[] for _ in names]
        for _, some in pool.map(TakeTexts(held.seed, domains, names, last), "reading"):
            for k, *drawn in some:
                found[k].append(tuple(drawn))  # type: ignore[arg-type]  # draw, tie, text
        texts = [[text for _, _, text in sorted(one)] for one in found]
        self._work = TrainOn(texts, targets, budget, steps, held.seed, size)
        self._jobs = jobs

    def measure(self, mixtures: Sequence[Floats]) -> Iterator[tuple[int, list[float]]]:
        """Yield (number, the bits per byte of each target) for every mixture, in order."""
        yield from enumerate(ordered_map(self._work, mixtures, min(self._jobs, max(len(mixtures), 1))))


class CommandProxy:
    """A command that trains and tests by whatever means, and prints a loss as the last line of its output.

    It is split as a shell would split it, but no shell runs it; `{mixture}` becomes the absolute path of a JSON file of
    weights, which is there as long as the command runs.
    """

    def __init__(
        self, command: str, names: Sequence[str], jobs: int, timeout: float | None, retries: int, folder: Path | None
    ) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"cannot read --proxy-command: {error}", way_out="quote it as for a shell") from error
        if not any("{mixture}" in word for word in self._words):
            raise UsageError("--proxy-command does not say {mixture}: it would always measure the same")
        self._names, self._jobs, self._timeout, self._retries = names, jobs, timeout, retries
        self._folder = folder
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def measure(self, mixtures: Sequence[Floats]) -> Iterator[tuple[int, list[float]]]:
        """Yield (number, [what was printed]) as each command is done; DselectError where one fails, at once."""
        with (
            TemporaryDirectory(prefix="dselect-", dir=self._folder) as folder,
            ThreadPoolExecutor(self._jobs) as threads,
        ):
            self._stopped = False
            waiting = {}
            for number, weights in enumerate(mixtures):
                path = Path(folder).resolve() / f"{number:04d}.json"
                path.write_bytes(Mixture(dict(zip(self._names, weights.tolist(), strict=True))).to_bytes())
                waiting[threads.submit(self._tried, path)] = number
            try:
                for done in as_completed(waiting):
                    yield waiting[done], [done.result()]
            finally:  # whatever ends this, no command goes on
                self._stopped = True
                threads.shutdown(wait=False, cancel_futures=True)
                for process in list(self._running):
                    _kill(process)

    def _tried(self, path: Path) -> float:
        for _ in range(self._retries):
            with suppress(DselectError):
                return self._run(path)
        return self._run(path)

    def _run(self, path: Path) -> float:
        words = [word.replace("{mixture}", str(path)) for word in self._words]
        if self._stopped:
            raise DselectError("stopped", where="--proxy-command")
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # so that what it starts can be stopped with it
            )
        except OSError as error:
            raise DselectError(f"cannot run {words[0]}: {error.strerror}", where="--proxy-command") from error
        with process:
            self._running.add(process)
            try:
                if self._stopped:  # while it started
                    _kill(process)
                out, err = process.communicate(timeout=self._timeout)
            except subprocess.TimeoutExpired as error:
                raise self._failed(f"took longer than {self._timeout:g} seconds", "") from error
            finally:
                _kill(process)
                self._running.discard(process)
        if process.returncode:
            raise self._failed(f"ended with exit status {process.returncode}", err)
        last = next((line for line in reversed(out.splitlines()) if line.strip()), "")
        try:
            found = float(last)
        except ValueError:
            found = float("nan")
        if not math.isfinite(found):
            raise self._failed(f"printed {last.strip()[:60]!r} as its last line, which is no loss", err)
        return found

    def _failed(self, what: str, err: str) -> DselectError:
        last = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "")
        return DselectError(
            f"the command {what}" + (f": {last[:200]}" if last else ""),
            where="--proxy-command",
            way_out="what was measured is in the log: run again to go on",
        )


def _kill(process: subprocess.Popen[str]) -> None:
    """Stop a command and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_draw(held: Held, domain: int, size: int) -> float:
    """Return the draw of the last record of a domain that fits into so many bytes; below 0 where none does."""
    order = held.orders[domain]
    fits = int(np.searchsorted(np.cumsum(held.sizes[order], dtype=np.int64), size, side="right"))
    return float(held.draws[order[fits - 1]]) if fits else -1.0


def smoothing(texts: Sequence[bytes], order: int) -> Floats:
    """Return the μ that `lm` fits to texts, the first of which are held out: float64 (order,)."""
    from dselect.kernels.byte_ngrams import count

    held, left = [], HELD_OUT
    for text in texts:
        if 0 < len(text) <= left:
            held.append(text)
            left -= len(text)
    mu = ByteLM(order).fit(count(texts, order), held).mu_
    assert mu is not None
    return mu


class _Sum:
    """Counts that are added up block by block; parts of similar size are merged, as digits of a binary counter are."""

    def __init__(self) -> None:
        self._parts: list[Counted] = []

    def add(self, counted: Counted) -> None:
        from dselect.kernels.byte_ngrams import added

        self._parts.append(counted)
        while len(self._parts) > 1 and len(self._parts[-2][0]) < 2 * len(self._parts[-1][0]):
            last = self._parts.pop()
            self._parts[-1] = added(self._parts[-1], last)

    def total(self) -> Counted:
        from dselect.kernels.byte_ngrams import added

        total: Counted = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
        for part in reversed(self._parts):
            total = added(total, part) if len(total[0]) else part
        return total

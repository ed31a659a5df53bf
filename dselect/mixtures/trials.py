"""Mixtures that were tried: measured by a proxy, and written down as each is done, so that a killed search goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from dselect.errors import DselectError
from dselect.records.publishing import write_all
from dselect.search import UNITS

Floats = np.ndarray[Any, np.dtype[np.float64]]
Json = dict[str, Any]


class Proxy(Protocol):
    """Something that tells what mixtures cost."""

    def measure(self, mixtures: Sequence[Floats]) -> Iterator[tuple[int, list[float]]]:
        """Yield (number, what it costs on each target, lower is better) for every mixture, as each is done."""


class Trials:
    """What was measured, and the file that says so: a line for the search, then one for each mixture.

    key: what must agree for an earlier measurement to hold. path: None keeps no file.
    """

    def __init__(self, path: Path | None, key: Json, names: Sequence[str]) -> None:
        self.names, self._key = names, json.loads(json.dumps(key))
        self._known: dict[tuple[int, ...], list[float]] = {}
        self._file: BinaryIO | None = None
        self.found = 0  # mixtures that the file held already
        if path is not None:
            self._file = self._open(path)

    def _open(self, path: Path) -> BinaryIO:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b", buffering=0)
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DselectError("another dselect is writing this log", where=str(path), way_out="wait for it") from None
        except OSError as error:
            raise DselectError(f"cannot write: {error.strerror}", where=str(path)) from error
        file.seek(0)
        whole = file.read().split(b"\n")
        lines = [line + b"\n" for line in whole[:-1]]  # what a killed run left of a last line is none
        self._read(lines, path)
        os.ftruncate(file.fileno(), sum(map(len, lines)))
        if not lines:
            write_all(file, json.dumps({"search": self._key}).encode() + b"\n")
        return file

    def _read(self, lines: Sequence[bytes], path: Path) -> None:
        way_out = "another --log, or delete this one"
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    key = dict(entry["search"])
                else:
                    losses = [float(entry["losses"][name]) for name in self._key["targets"]]
                    row = np.array([float(entry["weights"].get(name, 0.0)) for name in self.names])
                    self._known[_units(row)] = losses
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DselectError("not a log of climb", where=f"{path}:{number}", way_out=way_out) from error
            if number == 1 and key != self._key:
                told = next((name for name in self._key if key.get(name) != self._key[name]), "")
                was, now = (str(one.get(told))[:60] for one in (key, self._key))
                raise DselectError(
                    f"this log is of another search: {told} was {was}, is {now}", where=str(path), way_out=way_out
                )
        self.found = len(self._known)

    def measured(self, proxy: Proxy, mixtures: Floats) -> Floats:
        """Return what each mixture costs on each target, float64 (n, targets): as told before, or measured now."""
        told: dict[int, list[float]] = {}
        new: list[int] = []
        for number, row in enumerate(mixtures):
            if (known := self._known.get(_units(row))) is not None:
                told[number] = known
            else:
                new.append(number)
        for place, losses in proxy.measure([mixtures[number] for number in new]):
            number = new[place]
            told[number] = losses
            self._known[_units(mixtures[number])] = losses
            self._note(mixtures[number], losses)
        return np.array([told[number] for number in range(len(mixtures))])

    def _note(self, row: Floats, losses: Sequence[float]) -> None:
        if self._file is not None:
            weights = {name: weight for name, weight in zip(self.names, row.tolist(), strict=True) if weight}
            entry = {"weights": weights, "losses": dict(zip(self._key["targets"], losses, strict=True))}
            write_all(self._file, json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            os.fsync(self._file.fileno())

    def others(self, told: Floats) -> tuple[Floats, Floats]:
        """Return mixtures of the file that are none of these, and what they cost: (n, d), (n, targets)."""
        seen = {_units(row) for row in told}
        rest = {units: losses for units, losses in self._known.items() if units not in seen}
        weights = np.array(list(rest), np.float64).reshape(len(rest), len(self.names)) / UNITS
        return weights, np.array(list(rest.values()), np.float64).reshape(len(rest), len(self._key["targets"]))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def _units(row: Floats) -> tuple[int, ...]:
    return tuple(np.round(row * UNITS).astype(np.int64).tolist())

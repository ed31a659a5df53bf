"""Find the input: files, folders with all below them, standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dselect.errors import DselectError
from dselect.records.beside import journal_path, manifest_path, written_into

_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


@dataclass(frozen=True)
class Source:
    """One input: where it is read, how errors name it, what it is called in an output folder."""

    path: Path | None  # None: standard input
    name: str
    relative: str
    folder: Path | None = None  # that it was found in: whatever else is put there is read too

    def open(self) -> BinaryIO:
        """Open for reading bytes, unbuffered; DselectError if that fails."""
        try:
            if self.path is None:
                return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
            return open(self.path, "rb", buffering=0)
        except OSError as error:
            raise DselectError(f"cannot read: {error.strerror}", where=self.name) from error

    @property
    def size(self) -> int | None:
        """Bytes on disk; None where only reading tells (a pipe)."""
        if self.path is None:
            return None
        try:
            status = self.path.stat()
        except OSError:  # opening it will say what is wrong
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None


STDIN = Source(None, "<stdin>", "00000.jsonl.zst")


def discover(paths: Sequence[str]) -> list[Source]:
    """Return the inputs that files, folders and `-` stand for: folders recursively, in sorted order.

    Raises DselectError for what does not exist, a folder without records, or an input named twice.
    """
    found: list[Source] = []
    for name in paths:
        path = Path(name)
        if name == "-":
            found.append(STDIN)
        elif stat.S_ISDIR(_status(path).st_mode):
            found.extend(_in_folder(path))
        else:
            found.append(Source(path, name, path.name))
    seen: set[tuple[int, int]] = set()
    for source in found:
        try:
            status = os.fstat(sys.stdin.fileno()) if source.path is None else source.path.stat()
        except OSError:  # a link to nothing in a folder: opening it will say so
            continue
        key = (status.st_dev, status.st_ino)
        if key in seen:
            raise DselectError("this input is named twice", where=source.name)
        seen.add(key)
    return found


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise DselectError("no such file or folder", where=str(path)) from error
    except OSError as error:
        raise DselectError(f"cannot read: {error.strerror}", where=str(path)) from error


def _in_folder(folder: Path) -> list[Source]:
    records = sorted(path for path in _files(folder, set()) if path.name.endswith(_SUFFIXES))
    if not records and not manifest_path(folder.resolve()).exists():  # a shard of no files has one
        names = ", ".join("*" + suffix for suffix in _SUFFIXES)
        raise DselectError(f"no {names} in this folder", where=str(folder), way_out="name the files")
    for path in records:
        if path.exists() and not path.is_file():  # a link to nothing: opening it will say so
            raise DselectError("not a regular file", where=str(path), way_out="name a pipe itself")
    return [Source(path, str(path), str(path.relative_to(folder)), folder) for path in records]


def _files(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the files in a folder and below, through links too, but never in a circle; no dot files."""
    status = _status(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    _refuse_unfinished(folder)
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise DselectError(f"cannot read: {error.strerror}", where=str(folder)) from error
    for path in inside:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, above | {here})
        else:
            yield path


def _refuse_unfinished(folder: Path) -> None:
    """Raise DselectError for a folder that dselect has not finished, or that has lost what dselect wrote into it."""
    for place in (folder, folder.resolve()) if folder.is_symlink() else (folder.resolve(),):  # a link has its own books
        if journal_path(place).exists():
            raise DselectError("what writes this folder has not finished", where=str(folder), way_out="run that again")
        written = written_into(place)
        lost = [path for path in written if not os.path.lexists(path)]
        if lost:
            raise DselectError(
                f"{len(lost):,} of the {len(written):,} files that dselect wrote into this folder are gone",
                where=str(lost[0]),
                way_out=f"run that again; if it is meant, delete {manifest_path(place)}",
            )


def is_records(path: Path) -> bool:
    """Tell whether a file in a folder that is read would be read for its name."""
    return path.name.endswith(_SUFFIXES) and not path.name.startswith(".")

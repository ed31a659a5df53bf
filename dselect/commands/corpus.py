"""Make records of text files."""
# One record a file, or several with --split: its path is the id, the folder it lies in the source.
# Nothing is passed over in silence: whatever a folder holds becomes a record or is counted in the summary.

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import orjson

from dselect.console import Run
from dselect.errors import DselectError
from dselect.options import Argument, Option, OutputOptions, RunOptions
from dselect.pipeline import is_folder, open_sink, output_files
from dselect.pool import Counts
from dselect.records.publishing import TemporaryFile, write_all
from dselect.records.reading import LONGEST_LINE
from dselect.records.sources import STDIN

HEAD = 8 << 10  # a NUL this early makes a file binary, much as git has it
PASSED_OVER = (  # why something became no record, as the summary counts it
    "binary_files",
    "bad_files",
    "short_texts",
    "excluded",
    "hidden",
    "linked_folders",
    "special_files",
)

_BOUNDARIES = [re.compile(pattern) for pattern in (r"\n(?:[ \t\r]*\n)+", r"\n", r"\s")]  # the best place to cut first


@dataclass(frozen=True)
class TextFile:
    """A file that was named or found: where it is, and what its record will say."""

    path: Path
    id: str
    source: str


@dataclass
class Finder:
    """Finds the files that the arguments stand for, and counts what it leaves out.

    `include` and `exclude` are globs on the path below the named folder, or on the name alone; `source`, if given, is
    that of every file.
    """

    include: Sequence[str]
    exclude: Sequence[str]
    source: str | None
    passed: Counter[str]

    def find(self, paths: Sequence[Path]) -> Iterator[TextFile]:
        """Yield the files in the order of the arguments, those of a folder in the order of its names."""
        for path in paths:
            if path.is_dir():
                yield from self._in_folder(path, alone=len(paths) == 1)
            else:
                yield self._file(path, str(path), _name(path.parent))

    def _in_folder(self, folder: Path, *, alone: bool) -> Iterator[TextFile]:
        name, found = _name(folder), False
        for below in self._walk(folder, ""):
            found = True
            if alone:
                source = below.split("/")[0] if "/" in below else name
                yield self._file(folder / below, below, source)
            else:
                yield self._file(folder / below, f"{name}/{below}", name)
        if not found:
            raise DselectError(
                "no files to read in this folder",
                where=str(folder),
                way_out="dot files do not count; see --include and --exclude",
            )

    def _file(self, path: Path, unique: str, source: str) -> TextFile:
        return TextFile(path, _encodable(unique), _encodable(source if self.source is None else self.source))

    def _walk(self, folder: str | Path, below: str) -> Iterator[str]:
        """Yield the paths of the files in a folder, relative to the named one; `below` is its own, with a slash."""
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise _cannot_read(folder, error) from error
        for entry in inside:
            relative = below + entry.name
            reason = self._reason_against(entry, relative)
            if reason:
                self.passed[reason] += 1
            elif entry.is_dir():
                yield from self._walk(entry.path, f"{relative}/")
            else:
                yield relative

    def _reason_against(self, entry: os.DirEntry[str], relative: str) -> str | None:
        """Return which count an entry goes to; None where it is a file to read or a folder to enter."""
        if entry.name.startswith("."):
            return "hidden"
        if entry.name.endswith(".manifest.json") or _matches(relative, entry.name, self.exclude):
            return "excluded"  # a manifest of ours changes with every run
        try:
            if entry.is_dir():
                return "linked_folders" if entry.is_symlink() else None  # a link may lead back up
            if self.include and not _matches(relative, entry.name, self.include):
                return "excluded"
            return None if stat.S_ISREG(entry.stat().st_mode) else "special_files"
        except OSError as error:
            raise _cannot_read(entry.path, error) from error


def check(paths: Sequence[Path]) -> None:
    """Raise DselectError where a path cannot be read, a file would be read twice, or two ids could be the same."""
    places: dict[Path, Path] = {}
    for path in paths:
        try:
            path.stat()
        except OSError as error:
            raise _cannot_read(path, error) from error
        place = path.resolve()
        if place in places:
            raise DselectError("this input is named twice", where=str(path))
        places[place] = path
    for place, path in places.items():
        around = next((places[folder] for folder in place.parents if folder in places), None)
        if around:
            raise DselectError(f"this lies in {around}, which is named too", where=str(path))
    folders: dict[str, Path] = {}  # by how the ids of their files begin
    for path in sorted(paths, key=Path.is_dir, reverse=True):
        begins = _name(path) if path.is_dir() else path.parts[0]
        if begins in folders:
            raise DselectError(
                f"ids from here and from {folders[begins]} could be the same",
                where=str(path),
                way_out="name the folder that both lie in, or write two outputs",
            )
        if path.is_dir():
            folders[begins] = path


@dataclass
class Reader:
    """Reads files as text, and counts those that hold none."""

    passed: Counter[str]
    outputs: Collection[tuple[int, int]]  # device and inode of what the run writes: never its input
    skip_bad: bool
    rejects: TemporaryFile | None

    def texts(self, files: Iterable[TextFile]) -> Iterator[tuple[TextFile, str]]:
        """Yield the files that hold text, with it; one text is held at a time."""
        for file in files:
            text = self.read(file.path)
            if text is not None:
                yield file, text

    def read(self, path: Path) -> str | None:
        """Return the text without a byte order mark; None, counted, if the file is binary or may be skipped."""
        data = self._bytes(path)
        if data is None:
            self.passed["binary_files"] += 1
            return None
        try:
            return data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            if not self.skip_bad:
                raise DselectError(
                    f"not UTF-8: byte {error.start}", where=str(path), way_out="--bad-files skip passes over such files"
                ) from error
        self.passed["bad_files"] += 1
        if self.rejects:
            write_all(self.rejects.file, os.fsencode(path) + b"\n")
        return None

    def _bytes(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                if _identity(os.fstat(file.fileno())) in self.outputs:
                    raise DselectError(
                        "this output is one of the inputs", where=str(path), way_out="--exclude leaves it out"
                    )
                head = file.read(HEAD)
                return None if b"\0" in head else head + file.read()
        except OSError as error:
            raise _cannot_read(path, error) from error


def split(text: str, most: int) -> Iterator[str]:
    """Yield a text in pieces that joined give it again: at most `most` characters, and all but the last at least half.

    Cut after the last blank line that allows this, else after the last line end, the last white space, or at `most`.
    """
    start = 0
    while len(text) - start > most:
        lowest, end = start + (most + 1) // 2, start + most
        for boundary in _BOUNDARIES:
            cuts = [found.end() for found in boundary.finditer(text, lowest - 1, end)]
            if cuts:
                end = cuts[-1]
                break
        yield text[start:end]
        start = end
    yield text[start:]


def records(
    file: TextFile, text: str, most: int | None, min_chars: int, passed: Counter[str]
) -> Iterator[tuple[bytes, int]]:
    """Yield each record of a file as (line, bytes of text): one, or one a piece; short texts are counted instead."""
    cut = most is not None and len(text) > most
    for number, piece in enumerate(split(text, most or len(text))):
        if len(piece.strip()) < min_chars:
            passed["short_texts"] += 1
            continue
        name = f"{file.id}#{number}" if cut else file.id
        line = orjson.dumps({"id": name, "text": piece, "source": file.source}) + b"\n"
        if len(line) > LONGEST_LINE:
            raise DselectError(
                f"a record longer than {LONGEST_LINE >> 20} MiB", where=str(file.path), way_out="--split N cuts it"
            )
        yield line, len(piece.encode())


def command(
    paths: Annotated[list[Path], Argument(metavar="DIR", help="Folders of text files, or files.")],
    output: OutputOptions,
    run: RunOptions,
    source: Annotated[
        str | None, Option(metavar="NAME", help="The source of every record. [default: the folder below DIR]")
    ] = None,
    include: Annotated[
        list[str] | None, Option(metavar="GLOB", help="Read only files whose path below DIR, or name, matches.")
    ] = None,
    exclude: Annotated[
        list[str] | None, Option(metavar="GLOB", help="Leave out files and folders whose path or name matches.")
    ] = None,
    split_at: Annotated[
        int | None, Option("--split", metavar="N", min=1, help="Cut texts into pieces of at most N characters.")
    ] = None,
    min_chars: Annotated[
        int, Option(metavar="N", min=0, help="Pass over shorter texts; white space at the ends does not count.")
    ] = 1,
    bad_files: Annotated[
        Literal["stop", "skip"], Option(help="Stop at a file that is not UTF-8, or count and pass over it.")
    ] = "stop",
    rejects: Annotated[
        Path | None, Option(metavar="FILE", help="Where the names of such files go, one a line.")
    ] = None,
) -> None:
    """Make records of text files: one a file, with the fields id, text and source.

    Folders are read recursively, in the order of names. The id is the path below DIR, the source its first folder. Dot
    files, linked folders and binary files are passed over, and counted.

    \b
    Example:
      dselect corpus text -o pool.jsonl.zst
    """
    check(paths)
    target, passed, counts = output.output or "-", Counter(dict.fromkeys(PASSED_OVER, 0)), Counts()
    finder = Finder(include or (), [glob.rstrip("/") for glob in exclude or ()], source, passed)
    outputs = _present(target, rejects)
    run.ledger.call.settings["listing"] = listing(replace(finder, passed=Counter()).find(paths))
    with Run("corpus", run) as talk, _listed(rejects) as listed:
        run.ledger.open(
            [],
            lambda _: {},
            outputs=output_files(target, [STDIN]),
            folder=target != "-" and is_folder(target),
            whole=True,
            resume=False,
        )
        # a folder gets one file, as it does from standard input
        with open_sink(target, [STDIN], run.jobs, run.ledger.wrote, ()) as sink:
            reader = Reader(passed, outputs, bad_files == "skip", listed)
            talk.start("reading", None)
            for file, text in reader.texts(finder.find(paths)):
                for line, size in records(file, text, split_at, min_chars, passed):
                    sink.write(0, line)
                    counts.documents += 1
                    counts.bytes += size
                talk.advance(0, counts.documents, counts.bytes)
    talk.report(counts, **passed)


def listing(files: Iterable[TextFile]) -> str:
    """Return a hash of where files lie, their sizes and times: what tells that a folder has not changed."""
    found = hashlib.blake2b(digest_size=16)
    for file in files:
        status = file.path.stat()
        found.update(f"{file.id}\0{file.source}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return found.hexdigest()


@contextmanager
def _listed(path: Path | None) -> Iterator[TemporaryFile | None]:
    """Open a list, which appears under its name if nothing goes wrong; None where none is wanted."""
    if path is None:
        yield None
        return
    file = TemporaryFile(path)
    try:
        yield file
        file.commit()
    finally:
        file.discard()


def _present(output: str, rejects: Path | None) -> set[tuple[int, int]]:
    """Return the identities of the regular files that the run writes, as far as they are there before it begins."""
    found = [os.fstat(1)] if output == "-" else []
    found += [path.stat() for path in (Path(output), rejects) if path and path.exists()]
    return {_identity(status) for status in found if stat.S_ISREG(status.st_mode)}


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _matches(path: str, name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, glob) or fnmatchcase(name, glob) for glob in globs)


def _name(path: Path) -> str:
    """Return the last part of a path; for `.` and `..` that of the folder they stand for."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def _encodable(name: str) -> str:
    """Return a file's name as JSON can hold it: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _cannot_read(path: str | Path, error: OSError) -> DselectError:
    return DselectError(f"cannot read: {error.strerror}", where=str(path))

"""Write records: plain or compressed in frames, under the final name only when complete.

A compressed output is a run of independent frames, each cut at the first line end at or after 4 MiB of output lines, so
its bytes depend on the lines alone and never on how the work was divided.
"""

from __future__ import annotations

import fcntl
import gzip
import os
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import zstandard

from dselect.errors import DselectError
from dselect.records.publishing import TemporaryFile, cannot_write, date_back, is_special, write_all
from dselect.records.reading import POISON
from dselect.records.silence import say_nothing
from dselect.records.sources import Source

FRAME = 4 << 20
ZSTD_LEVEL, GZIP_LEVEL = 3, 6
Compress = Callable[[bytes | memoryview], bytes]
_UNWRITTEN = (".bz2", ".xz", ".lz4", ".zip", ".arrow", ".csv")


class Sink(Protocol):
    """Where records go. Leave it without an exception and the output appears; with one, nothing does."""

    def write(self, source: int, data: bytes) -> None:
        """Take whole lines that come from a source; sources come in order."""

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Compressor:
    """Compress frames, in threads where there is more than one job, and hand them on in order."""

    def __init__(self, jobs: int) -> None:
        self._threads = ThreadPoolExecutor(jobs) if jobs > 1 else None
        self._waiting: deque[tuple[Future[bytes], Callable[[bytes], None]]] = deque()
        self._most = 2 * jobs

    def submit(self, compress: Compress, frame: bytes | memoryview, write: Callable[[bytes], None]) -> None:
        """Compress a frame, later write it; waits while too many frames are in flight."""
        if self._threads is None:
            write(compress(frame))
            return
        self._waiting.append((self._threads.submit(compress, frame), write))
        if len(self._waiting) > self._most:
            self._next()

    def drain(self) -> None:
        """Write all that is still in flight."""
        while self._waiting:
            self._next()

    def _next(self) -> None:
        future, write = self._waiting.popleft()
        write(future.result())

    def close(self) -> None:
        """Stop the threads; what is still in flight is dropped."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)


class LineFile:
    """One output of whole lines: a file, compressed as its suffix says, or an open descriptor."""

    def __init__(self, path: Path, compressor: Compressor) -> None:
        self.path = path
        self._temporary: TemporaryFile | None = None
        self._compressor = compressor
        self._compress = _compression(path.name)
        self._held: list[bytes] = []
        self._size = self._frames = 0
        self._silent = True
        if is_special(path):
            try:
                self._file: BinaryIO = open(path, "wb", buffering=0)
            except OSError as error:
                raise cannot_write(path, error) from error
        else:
            self._temporary = TemporaryFile(path)
            self._file = self._temporary.file

    def write(self, data: bytes) -> None:
        """Take whole lines."""
        if self._compress is None:
            self._put(data)
            return
        self._held.append(data)
        self._size += len(data)
        if self._size < FRAME:
            return
        whole = b"".join(self._held)
        start = 0
        while len(whole) - start >= FRAME:
            end = whole.index(b"\n", start + FRAME - 1) + 1
            self._compressor.submit(self._compress, memoryview(whole)[start:end], self._put)
            self._frames += 1
            start = end
        self._held, self._size = [whole[start:]], len(whole) - start

    def finish(self) -> None:
        """Write the last frame and give the file its name."""
        if self._compress is not None:
            rest = b"".join(self._held)
            self._held = []
            if rest or not self._frames:  # an output without records is still a valid stream
                self._compressor.submit(self._compress, rest, self._put)
        self._compressor.drain()
        if self._temporary is not None:
            self._temporary.commit()
        else:
            if self._silent:
                say_nothing(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._temporary is not None:
            self._temporary.discard()
        else:
            self._file.close()

    def _put(self, data: bytes) -> None:
        self._silent = self._silent and not data
        try:
            write_all(self._file, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(self.path, error) from error


Finished = Callable[[Path, int], None]  # told of each output that has its final name, and its source's number


class Output(Protocol):
    """One output file: lines as they are, or in columns."""

    path: Path

    def write(self, data: bytes) -> None:
        """Take whole lines."""

    def finish(self) -> None:
        """Give the complete file its name."""

    def discard(self) -> None:
        """Leave nothing behind."""


def open_output(path: Path, compressor: Compressor, sources: Sequence[Source]) -> Output:
    """Return an output of the kind its suffix says; a Parquet one has the types of these sources."""
    if path.suffix != ".parquet":
        return LineFile(path, compressor)
    if is_special(path):
        raise DselectError("Parquet cannot be written to a pipe or device", where=str(path))
    from dselect.records.columns import ColumnFile  # few write Parquet

    return ColumnFile(path, sources)


class FileSink:
    """All records into one file; `sources` are those the records come from."""

    def __init__(
        self, path: Path, jobs: int, finished: Finished = lambda *_: None, sources: Sequence[Source] = ()
    ) -> None:
        self._compressor = Compressor(jobs)
        self._file = open_output(path, self._compressor, sources)
        self._finished = finished

    def write(self, source: int, data: bytes) -> None:  # noqa: ARG002  one file takes every source
        """Take whole lines."""
        self._file.write(data)

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.finish()
                self._finished(self._file.path, 0)
        except BaseException:
            self._file.discard()
            raise
        else:
            if kind is not None:
                self._file.discard()
        finally:
            self._compressor.close()


Opener = Callable[[Path, Compressor, Sequence[Source]], Output]


class FolderSink:
    """One file per source, under the source's relative name; each appears when its source is done.

    Sources that are `done` already are passed over. opener: makes an output of a path and the source behind it.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        jobs: int,
        finished: Finished = lambda *_: None,
        done: Collection[int] = (),
        opener: Opener = open_output,
    ) -> None:
        self._finished, self._done, self._opener = finished, done, opener
        self._folder = folder
        self._paths = [folder / source.relative for source in sources]
        self._sources = sources
        taken: dict[Path, Source] = {}
        for path, source in zip(self._paths, sources, strict=True):
            if path in taken:
                raise DselectError(
                    f"{taken[path].name} and {source.name} would both be written to {path}",
                    way_out="name the folder they are in, or write to separate folders",
                )
            taken[path] = source
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise cannot_write(folder, problem) from problem
        date_back(folder)
        self._compressor = Compressor(jobs)
        self._file: Output | None = None
        self._next = self._number = 0

    def write(self, source: int, data: bytes) -> None:
        """Take whole lines of a source, not before those of the sources ahead of it."""
        self._open_until(source)
        assert self._file is not None
        self._file.write(data)

    def _open_until(self, source: int) -> None:
        while self._next <= source:  # a source that gave no lines still gets its file
            if self._next not in self._done:
                self._finish()
                self._number = self._next
                self._file = self._opener(self._paths[self._next], self._compressor, [self._sources[self._next]])
                date_back(self._folder)
            self._next += 1

    def _finish(self) -> None:
        if self._file is not None:
            self._file.finish()
            self._finished(self._file.path, self._number)
            self._file = None
            date_back(self._folder)

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._open_until(len(self._paths) - 1)
                self._finish()
        finally:
            if self._file is not None:
                self._file.discard()
                date_back(self._folder)
            self._compressor.close()


class StdoutSink:
    """Plain lines to standard output.

    The end of the last line, its brace and what follows, waits for the next line or for success: a run that is killed
    outright leaves a line that is no record, so that its stream cannot be taken for a short one.
    """

    def __init__(self) -> None:
        self._file = open(1, "wb", buffering=0, closefd=False)
        self._held = b""
        self._silent = True

    def write(self, source: int, data: bytes) -> None:  # noqa: ARG002  one stream takes every source
        """Take whole lines; BrokenPipeError if nobody reads them any more."""
        self._silent = self._silent and not data
        end = data.rfind(b"}")
        if end < 0:
            self._held += data
            return
        self._put(b"".join((self._held, memoryview(data)[:end])))
        self._held = data[end:]

    def _put(self, data: bytes) -> None:
        try:
            write_all(self._file, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DselectError(f"cannot write: {error.strerror}", where="<stdout>") from error

    def __enter__(self) -> StdoutSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._put(self._held)
            if self._silent:
                say_nothing(1)
        else:  # the line is whole again: the one that says that the run failed comes after it
            with suppress(OSError, DselectError):
                self._put(self._held)


def poison_stdout() -> None:
    """End standard output with an unterminated line that every dselect reader refuses: a failed run is no short one."""
    with suppress(OSError), open(1, "wb", buffering=0, closefd=False) as file:
        if not file.isatty():
            write_all(file, b"\n" + POISON + b" true")  # what was cut short is a line of its own


def appends(descriptor: int) -> bool:
    """Tell whether what is written goes to the end of a file, as a shell's >> asks."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)


def _compression(name: str) -> Compress | None:
    if name.endswith(".zst"):
        return _zstd_frame
    if name.endswith(".gz"):
        return lambda frame: gzip.compress(frame, GZIP_LEVEL, mtime=0)
    if name.endswith(_UNWRITTEN):
        raise DselectError("cannot write this format", where=name, way_out="name it .jsonl, .jsonl.gz or .jsonl.zst")
    return None


def _zstd_frame(frame: bytes | memoryview) -> bytes:
    # one thread a frame: zstd's own threads change the bytes
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(frame)

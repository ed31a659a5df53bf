"""Keep records on disk for a while, compressed: a stream for the passes that follow, or lines for another order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

from dselect.errors import DselectError

_PENDING = 1 << 16  # bytes of lines that wait to be written to a shelf


class Spool:
    """A nameless temporary file: it is gone with the process, however that ends."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="dselect-")
        except OSError as error:
            raise self._problem(error) from error

    def tee(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the chunks on while storing them; complete once the last one has been taken."""
        compressor = zstandard.ZstdCompressor(level=1).compressobj()
        try:
            for chunk in chunks:
                self._file.write(compressor.compress(chunk))
                yield chunk
            self._file.write(compressor.flush())
            self._file.flush()
        except OSError as error:
            raise self._problem(error) from error

    def chunks(self) -> Iterator[bytes]:
        """Yield the stored bytes again, from the start."""
        self._file.seek(0)
        reader = zstandard.ZstdDecompressor().stream_reader(self._file, closefd=False)
        while chunk := reader.read(1 << 18):
            yield chunk

    def _problem(self, error: OSError) -> DselectError:
        return _cannot_keep(error, self._folder)


class Shelves:
    """Lines put on numbered shelves in any order, and taken back shelf by shelf: nameless temporary files."""

    def __init__(self, count: int, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        self._pending: list[list[bytes]] = [[] for _ in range(count)]
        self._sizes = [0] * count
        try:
            self._files = [tempfile.TemporaryFile(dir=self._folder, prefix="dselect-") for _ in range(count)]
        except OSError as error:
            raise _cannot_keep(error, self._folder) from error

    def put(self, shelf: int, line: bytes) -> None:
        """Put a line, without its newline, on a shelf."""
        self._pending[shelf].append(line)
        self._sizes[shelf] += len(line)
        if self._sizes[shelf] >= _PENDING:
            self._write(shelf)

    def take(self, shelf: int) -> list[bytes]:
        """Return the lines of a shelf in the order they were put there, and clear it."""
        self._write(shelf)
        with self._files[shelf] as file:
            file.seek(0)
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
            lines = reader.read().split(b"\n")
        lines.pop()
        return lines

    def _write(self, shelf: int) -> None:
        data = b"".join([line + b"\n" for line in self._pending[shelf]])
        self._pending[shelf], self._sizes[shelf] = [], 0
        try:
            self._files[shelf].write(zstandard.compress(data, 1))
            self._files[shelf].flush()
        except OSError as error:
            raise _cannot_keep(error, self._folder) from error


def _cannot_keep(error: OSError, folder: Path) -> DselectError:
    return DselectError(
        f"cannot keep the input for a second pass: {error.strerror}",
        where=str(folder),
        way_out="--tmp DIR names another folder",
    )

"""Keep a stream that can be read only once, compressed, for the passes that follow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

from dselect.errors import DselectError


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
        return DselectError(
            f"cannot keep the input for a second pass: {error.strerror}",
            where=str(self._folder),
            way_out="--tmp DIR names another folder",
        )

"""Attribute files beside records, as dolma has them: as many lines, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dselect.errors import DselectError
from dselect.records.decompression import chunks
from dselect.records.reading import Block
from dselect.records.sources import Source


class LineReader:
    """Takes lines from a decompressed stream, a number at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, b""

    def take(self, count: int) -> bytes:
        """Return the next lines with their newlines; fewer than asked at the end of the stream."""
        parts, end = [self._held], -1
        missing = count - self._held.count(b"\n")
        while missing > 0:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            missing -= chunk.count(b"\n")
        self._held = b"".join(parts)
        for _ in range(count):
            at = self._held.find(b"\n", end + 1)
            if at < 0:
                end = len(self._held) - 1
                break
            end = at
        taken, self._held = self._held[: end + 1], self._held[end + 1 :]
        return taken


def paired(found: Iterator[Block], source: Source, folders: Sequence[Path]) -> Iterator[Block]:
    """Give every block of a source the same lines of its attribute files in these folders, which must have as many."""
    sidecars: list[tuple[Source, LineReader]] = []
    for block in found:
        if not sidecars:
            sidecars = [_open(folder, source) for folder in folders]
        parts = tuple(reader.take(block.lines) for _, reader in sidecars)
        for part, (sidecar, _) in zip(parts, sidecars, strict=True):
            if part.count(b"\n") < block.lines and not (part and block.lines == Block(0, 1, part).lines):
                raise _other(f"fewer lines than {source.name}", sidecar)
        yield replace(block, sidecars=parts)
    for sidecar, reader in sidecars:
        if reader.take(1):
            raise _other("more lines than the file it belongs to", sidecar)


def _open(folder: Path, records: Source) -> tuple[Source, LineReader]:
    relative = records.relative
    bare = next((relative.removesuffix(s) for s in (".zst", ".gz") if relative.endswith(s)), relative)
    for name in (relative, bare, f"{bare}.zst", f"{bare}.gz"):
        if (folder / name).is_file():
            source = Source(folder / name, str(folder / name), name)
            return source, LineReader(chunks(source))
    raise DselectError(
        f"no attribute file for {records.name}", where=str(folder / relative), way_out="see --attributes"
    )


def _other(what: str, sidecar: Source) -> DselectError:
    return DselectError(what, where=sidecar.name, way_out="make the attributes again from these files")

"""Find the input, decompress it, cut it into blocks of whole lines.

Plain, gzip, zstd and Parquet are told apart by their first bytes. A compressed stream that ends in the middle of a
frame, or is damaged, raises: a truncated shard must never look like a short one.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson
import zstandard

from dselect.errors import DselectError
from dselect.records import parquet

BLOCK = 1 << 20  # bytes of decompressed lines handed to a worker at a time
LONGEST_LINE = 1 << 28
POISON = b'{"dselect_failed":'

_SLICE = 1 << 12  # compressed bytes fed at once: no more than 128 MiB can be made of them, by zstd's format
_WINDOW = 1 << 27
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_FOREIGN = {
    b"\xfd7zX": ("an xz file", "xzcat FILE | dselect …"),
    b"BZh": ("a bzip2 file", "bzcat FILE | dselect …"),
    b"PK\x03\x04": ("a zip archive", "unzip -p FILE | dselect …"),
}


@dataclass(frozen=True)
class Source:
    """One input: where it is read, how errors name it, what it is called in an output folder."""

    path: Path | None  # None: standard input
    name: str
    relative: str

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


@dataclass(frozen=True)
class Block:
    """Whole lines of one source. Only the last block of a source may lack its last newline.

    sidecars: as many lines of each attribute file as the block has.

    A block with a failure holds no lines: it is the last of a source that could not be read on (`readable`).
    """

    source: int
    first_line: int
    data: bytes
    failure: DselectError | None = None
    sidecars: tuple[bytes, ...] = ()

    @property
    def lines(self) -> int:
        """Return how many lines there are, a last one without a newline among them."""
        return self.data.count(b"\n") + (self.data[-1:] not in (b"\n", b""))


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
        if source.path is None:
            key = (-1, -1)
        else:
            try:
                status = source.path.stat()
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
    if not records:
        raise DselectError(f"no {', '.join('*' + s for s in _SUFFIXES)} in this folder", where=str(folder))
    for path in records:
        if path.exists() and not path.is_file():  # a link to nothing: opening it will say so
            raise DselectError("not a regular file", where=str(path), way_out="name a pipe itself")
    return [Source(path, str(path), str(path.relative_to(folder))) for path in records]


def _files(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the files in a folder and below, through links too, but never in a circle; no dot files."""
    status = _status(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
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


def blocks(number: int, source: Source, chunks: Iterable[bytes]) -> Iterator[Block]:
    """Cut a decompressed stream into blocks of whole lines, dropping a byte order mark at its start.

    Where the stream fails, the whole lines before that still come first.
    """
    first_line, held, pending = 1, 0, list[bytes]()
    fresh = True
    failure: DselectError | None = None
    try:
        for chunk in _small(chunks):
            if fresh and chunk:
                chunk, fresh = chunk.removeprefix(b"\xef\xbb\xbf"), False
            pending.append(chunk)
            held += len(chunk)
            if held < BLOCK:
                continue
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                if held > LONGEST_LINE:
                    line = first_line + sum(piece.count(b"\n") for piece in pending)
                    while pending and b"\n" not in pending[-1]:  # the long line, which is not wanted any more
                        pending.pop()
                    raise DselectError(f"a line longer than {LONGEST_LINE >> 20} MiB", where=f"{source.name}:{line}")
                continue
            pending[-1] = chunk[:cut]
            data = b"".join(pending)
            yield Block(number, first_line, data)
            first_line += data.count(b"\n")
            pending = [chunk[cut:]]
            held = len(chunk) - cut
    except DselectError as error:
        failure = error
    data = b"".join(pending)
    whole = data.rfind(b"\n") + 1
    if not failure and len(data) > whole:
        failure = _unfinished(data[whole:], source, first_line + data.count(b"\n"))
    if failure:
        data = data[:whole]
    if data:
        yield Block(number, first_line, data)
    if failure:
        raise failure


def _small(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut what is larger than a block: what a hostile file makes at once, which must not travel on as one."""
    for chunk in chunks:
        if len(chunk) <= BLOCK:
            yield chunk
        else:
            yield from (chunk[start : start + BLOCK] for start in range(0, len(chunk), BLOCK))


def _unfinished(line: bytes, source: Source, number: int) -> DselectError | None:
    """Return why a source cannot be whole that ends with this line, which no newline ends; None if it can be."""
    if line.startswith(POISON):
        what, way_out = "the dselect command before this one in the pipe failed", "its own message says why"
        return DselectError(what, where=source.name, way_out=way_out)
    if source.size is None and line.startswith(b"{"):  # of a file it is a bad line like others
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError:
            way_out = "what wrote it was killed or failed: mend that, and run again"
            return DselectError(
                "the stream ends in the middle of a record", where=f"{source.name}:{number}", way_out=way_out
            )
    return None


def readable(number: int, source: Source, chunks: Iterable[bytes]) -> Iterator[Block]:
    """Cut a stream as `blocks` does, but where it fails yield a block that says why instead of raising."""
    next_line = 1
    try:
        for block in blocks(number, source, chunks):
            yield block
            next_line = block.first_line + block.data.count(b"\n")
    except DselectError as failure:
        yield Block(number, next_line, b"", failure)


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


def chunks(
    source: Source, consumed: Callable[[int], None] = lambda _: None, read: hashlib.blake2b | None = None
) -> Iterator[bytes]:
    """Yield the decompressed bytes of a source.

    `consumed` is told of every piece read, in bytes on disk; `read` is updated with them.
    """
    with source.open() as file:
        raw = _raw(file, source, consumed, read)
        head = b""
        for piece in raw:
            head += piece
            if len(head) >= len(_ZSTD):
                break
        for magic, (what, way_out) in _FOREIGN.items():
            if head.startswith(magic):
                raise DselectError(f"this is {what}, not JSON Lines", where=source.name, way_out=way_out)
        if head.startswith(parquet.MAGIC):
            if source.path is None or source.size is None:
                raise DselectError("Parquet cannot be read from a pipe", where=source.name, way_out="name the file")
            yield from parquet.lines(source.path, source.name, consumed)
            while read and (piece := file.read(1 << 18)):
                read.update(piece)
            return
        if source.name.endswith(".parquet"):
            raise DselectError(
                f"not a Parquet file: it does not begin with {parquet.MAGIC.decode()}",
                where=source.name,
                way_out="copy or make the file again",
            )
        compressed = source.name.endswith((".zst", ".gz"))
        if compressed and len(head) < len(_ZSTD):
            raise DselectError("truncated: not even a compressed header", where=source.name)
        if head.startswith(_ZSTD) or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
            yield from _zstd(head, raw, source.name)
        elif head.startswith(_GZIP):
            yield from _gzip(head, raw, source.name)
        elif compressed and head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
            raise DselectError("corrupt: not compressed as its name says", where=source.name)
        else:
            yield head
            yield from raw


def digest(path: Path) -> str:
    """Return blake2b-128 of a file's bytes, as hex."""
    found = fresh_digest()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def fresh_digest() -> hashlib.blake2b:
    """Return the hash that `digest` uses, for bytes as they come."""
    return hashlib.blake2b(digest_size=16)


def _raw(
    file: BinaryIO, source: Source, consumed: Callable[[int], None], read: hashlib.blake2b | None
) -> Iterator[bytes]:
    while True:
        try:
            piece = file.read(1 << 18)
        except OSError as error:
            raise DselectError(f"cannot read: {error.strerror}", where=source.name) from error
        if not piece:
            return
        consumed(len(piece))
        if read:
            read.update(piece)
        yield piece


def _slices(head: bytes, raw: Iterator[bytes]) -> Iterator[bytes]:
    for piece in itertools.chain([head], raw):
        for start in range(0, len(piece), _SLICE):
            yield piece[start : start + _SLICE]


def _zstd(head: bytes, raw: Iterator[bytes], name: str) -> Iterator[bytes]:
    # python-zstandard's readers stop after one frame, or read on and never report a cut last frame: so frame by frame
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    frame, started = decompressor.decompressobj(), False
    try:
        for piece in _slices(head, raw):
            while piece:
                started = True
                data = frame.decompress(piece)
                piece = b""
                if frame.eof:
                    piece, frame, started = frame.unused_data, decompressor.decompressobj(), False
                if data:
                    yield data
    except zstandard.ZstdError as error:
        raise _damaged(error, name) from error
    if started:
        raise _truncated(name)


def _gzip(head: bytes, raw: Iterator[bytes], name: str) -> Iterator[bytes]:
    member, started = zlib.decompressobj(wbits=31), False
    try:
        for piece in _slices(head, raw):
            while piece:
                if not started:
                    piece = piece.lstrip(b"\0")  # gzip allows zero padding after a member
                    if not piece:
                        break
                started = True
                data = member.decompress(piece)
                piece = b""
                if member.eof:
                    piece, member, started = member.unused_data, zlib.decompressobj(wbits=31), False
                if data:
                    yield data
    except zlib.error as error:
        raise _damaged(error, name) from error
    if started:
        raise _truncated(name)


def _truncated(name: str) -> DselectError:
    return DselectError(
        "truncated: the compressed stream ends in the middle of a frame",
        where=name,
        way_out="copy or make the file again",
    )


def _damaged(error: Exception, name: str) -> DselectError:
    if "memory" in str(error):  # how zstd says that a frame asks for a larger window
        return DselectError(
            "this zstd frame needs a window above 128 MiB",
            where=name,
            way_out="compress it again with zstd --long=27 or less",
        )
    return DselectError(f"corrupt: {error}", where=name, way_out="copy or make the file again")


def read_ahead(streams: Iterable[Iterator[Block]], parallel: int, depth: int = 4) -> Iterator[Block]:
    """Yield the blocks of all streams in order, while threads decompress up to `parallel` of them ahead.

    zlib and zstd let go of the interpreter while they work, so threads do. At most `depth` blocks a stream wait.
    """
    stopped = threading.Event()
    waiting: list[queue.Queue[Block | BaseException | None]] = []
    coming = iter(streams)

    def fill(stream: Iterator[Block], line: queue.Queue[Block | BaseException | None]) -> None:
        def put(item: Block | BaseException | None) -> None:
            while not stopped.is_set():
                with suppress(queue.Full):
                    line.put(item, timeout=0.1)
                    return

        try:
            for block in stream:
                put(block)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  raised again where the block is wanted
            put(error)

    def start() -> None:
        stream = next(coming, None)
        if stream is not None:
            line: queue.Queue[Block | BaseException | None] = queue.Queue(depth)
            waiting.append(line)
            threading.Thread(target=fill, args=(stream, line), daemon=True).start()

    try:
        for _ in range(parallel):
            start()
        while waiting:
            item = waiting[0].get()
            if isinstance(item, Block):
                yield item
            elif item is None:
                waiting.pop(0)
                start()
            else:
                raise item
    finally:
        stopped.set()

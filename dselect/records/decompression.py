"""Turn what is on disk into the bytes of lines.

Plain, gzip, zstd and Parquet are told apart by their first bytes. A compressed stream that ends in the middle of a
frame, or is damaged, raises: a truncated shard must never look like a short one.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

from dselect.errors import DselectError
from dselect.records import parquet
from dselect.records.silence import is_unexplained
from dselect.records.sources import Source

_SLICE = 1 << 12  # compressed bytes fed at once: no more than 128 MiB can be made of them, by zstd's format
_WINDOW = 1 << 27
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_FOREIGN = {
    b"\xfd7zX": ("an xz file", "xzcat FILE | dselect …"),
    b"BZh": ("a bzip2 file", "bzcat FILE | dselect …"),
    b"PK\x03\x04": ("a zip archive", "unzip -p FILE | dselect …"),
}


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
        if not head and is_unexplained(file.fileno()):
            raise DselectError(
                "nothing came through this pipe",
                where=source.name,
                way_out="what writes to it failed or found nothing; a blank line says that nothing is meant",
            )
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
            raise DselectError(
                "truncated: not even a compressed header", where=source.name, way_out="copy or make the file again"
            )
        if head.startswith(_ZSTD) or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
            # python-zstandard's readers stop after one frame, or read on and never report a cut last frame
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            yield from _frames(head, raw, source.name, decompressor.decompressobj)
        elif head.startswith(_GZIP):  # which allows zeros after a member
            yield from _frames(head, raw, source.name, lambda: zlib.decompressobj(wbits=31), padding=b"\0")
        elif compressed and head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
            raise DselectError("corrupt: not compressed as its name says", where=source.name)
        else:
            yield head
            yield from raw


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


def _frames(
    head: bytes, raw: Iterator[bytes], name: str, begin: Callable[[], Any], padding: bytes = b""
) -> Iterator[bytes]:
    """Decompress frame by frame, each with what `begin` gives; padding: a byte that may stand between them."""
    frame, started = begin(), False
    try:
        for piece in _slices(head, raw):
            while piece:
                if padding and not started:
                    piece = piece.lstrip(padding)
                    if not piece:
                        break
                started = True
                data = frame.decompress(piece)
                piece = b""
                if frame.eof:
                    piece, frame, started = frame.unused_data, begin(), False
                if data:
                    yield data
    except (zstandard.ZstdError, zlib.error) as error:
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

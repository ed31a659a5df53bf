"""Cut streams into blocks of whole lines; refuse those that cannot be whole."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import orjson

from dselect.errors import DselectError
from dselect.records.sources import Source

BLOCK = 1 << 20  # bytes of decompressed lines handed to a worker at a time
LONGEST_LINE = 1 << 28
POISON = b'{"dselect_failed":'


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
        return upstream_failed(source.name)
    if source.size is None and line.startswith(b"{"):  # of a file it is a bad line like others
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError:
            way_out = "what wrote it was killed or failed: mend that, and run again"
            return DselectError(
                "the stream ends in the middle of a record", where=f"{source.name}:{number}", way_out=way_out
            )
    return None


def upstream_failed(where: str) -> DselectError:
    """Return the error for a stream that says that its writer failed."""
    what, way_out = "the dselect command before this one in the pipe failed", "its own message says why"
    return DselectError(what, where=where, way_out=way_out)


def readable(number: int, source: Source, chunks: Iterable[bytes]) -> Iterator[Block]:
    """Cut a stream as `blocks` does, but where it fails yield a block that says why instead of raising."""
    next_line = 1
    try:
        for block in blocks(number, source, chunks):
            yield block
            next_line = block.first_line + block.data.count(b"\n")
    except DselectError as failure:
        yield Block(number, next_line, b"", failure)


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

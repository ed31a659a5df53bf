"""An ordered parallel map: in this process, or over worker processes.

One call, `ordered_map`. Results come in the order of the items, whatever the number of jobs; only a bounded number of
items is in flight, so memory does not grow with their number.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import struct
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import forkserver, reduction, util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from dselect.errors import DselectError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # items given to a worker at a time: one it works on, one already there when it is done
_SLOT = 2 << 20  # bytes of a message that crosses in shared memory: a block of lines, or what became of it
_LONG_FOLDER = 60  # bytes
_IN_SLOT = struct.Struct("<I")
_PRELOAD = ("typer", "numpy", "orjson", "numba", "dselect.pipeline")


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity and the container's quota, not the machine's count."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cpus = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, modules: Sequence[str] = ()
) -> Iterator[Result]:
    """Yield function(item) for every item, in order, with `jobs` processes; with one job, in this process.

    modules: what the function will import, to be imported once for all processes. The function travels to each worker
    once and must pickle; so must items and results. A DselectError in a worker is raised here, at its item's turn. A
    worker that dies raises DselectError. However the iteration ends, no process is left.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    _start_server(modules)
    workers: list[_Worker] = []
    done: dict[int, Any] = {}
    turn = sent = 0
    coming: Iterator[Item] | None = iter(items)
    failure: BaseException | None = None
    try:
        while True:
            while coming and sent - turn < 2 * _AHEAD * jobs and (worker := _free(workers, function, jobs)):
                try:
                    item = next(coming)
                except StopIteration:
                    coming = None
                except DselectError as error:  # the items before it still get their turn
                    coming, failure = None, error
                else:
                    worker.send(sent, item)
                    sent += 1
            if turn == sent:
                break
            if turn not in done:
                for ready in wait([worker.pipe for worker in workers if worker.holds]):
                    number, result = next(w for w in workers if w.pipe is ready).receive()
                    done[number] = result
            while turn in done:
                result = done.pop(turn)
                turn += 1
                if isinstance(result, Exception):
                    raise result
                yield result
        if failure:
            raise failure
    finally:
        for worker in workers:
            worker.stop()


def _free(workers: list[_Worker], function: Callable[[Any], Any], jobs: int) -> _Worker | None:
    """Return the worker with the least to do, a new one while all are busy, or None when each has enough."""
    least = min(workers, key=lambda worker: len(worker.holds), default=None)
    if (least is None or least.holds) and len(workers) < jobs:
        least = _Worker(function)
        workers.append(least)
    return least if least and len(least.holds) < _AHEAD else None


def _start_server(modules: Sequence[str]) -> None:
    """Start the process that workers are forked from, if it does not run; it imports these, and what this run has."""
    mine = [
        name for name in sys.modules if name in _PRELOAD or name.startswith(("dselect.kernels.", "dselect.commands."))
    ]
    multiprocessing.get_context("forkserver").set_forkserver_preload([*mine, *modules])
    with _QuietInterrupts(), _ShortTemporaryFolder():
        forkserver.ensure_running()


class _Worker:
    """A process that answers each item with a result, in order."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        arena = _Arena.new()
        self.channel = _Channel(self.pipe, arena, writes=0, reads=1)
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, arena, function), daemon=True)
        with _QuietInterrupts():
            self.process.start()
        theirs.close()
        arena.close()
        self.holds: deque[int] = deque()

    def send(self, number: int, item: object) -> None:
        try:
            self.channel.send(item)
        except OSError as error:
            raise self._died() from error
        self.holds.append(number)

    def receive(self) -> tuple[int, Any]:
        try:
            answer = self.channel.read(self.channel.receive())
        except (EOFError, OSError) as error:
            raise self._died() from error
        return self.holds.popleft(), answer

    def _died(self) -> DselectError:
        self.process.join(timeout=5)
        code = self.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return DselectError(
            f"a worker process died ({how})",
            way_out="if the machine ran out of memory, use fewer --jobs",
        )

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


class _Arena:
    """Memory that two processes share: slots for messages, `_AHEAD` in each direction; nameless, so never left over."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def new(cls) -> _Arena:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("dselect")
        else:  # macOS
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, 2 * _AHEAD * _SLOT)
        return cls(descriptor)

    def map(self) -> memoryview:
        return memoryview(mmap.mmap(self.descriptor, 2 * _AHEAD * _SLOT))

    def close(self) -> None:
        os.close(self.descriptor)

    def __reduce__(self) -> tuple[Any, ...]:  # how a descriptor travels to a process that starts
        return _Arena._arrived, (reduction.DupFd(self.descriptor),)

    @classmethod
    def _arrived(cls, duplicate: Any) -> _Arena:
        return cls(duplicate.detach())


class _Channel:
    """Messages through shared memory, announced over a pipe: what fits a slot crosses without the pipe's copies.

    A slot is free again when the message `_AHEAD` later comes, since no more are in flight; larger ones take the pipe.
    Messages are written and read as multiprocessing's own pipes do it, between this process and those it has started:
    nobody else has the memory. What strangers wrote is bytes inside a message, and no message itself.
    """

    def __init__(self, pipe: Connection, arena: _Arena, writes: int, reads: int) -> None:
        self._pipe, self._memory = pipe, arena.map()
        self._writes, self._reads = writes * _AHEAD, reads * _AHEAD  # the first slot of each direction
        self._sent = self._read = 0

    def send(self, message: object) -> None:
        data = reduction.ForkingPickler.dumps(message)
        slot = self._writes + self._sent % _AHEAD
        self._sent += 1
        if len(data) <= _SLOT:
            self._memory[slot * _SLOT : slot * _SLOT + len(data)] = data
            self._pipe.send_bytes(_IN_SLOT.pack(len(data)))
        else:
            self._pipe.send_bytes(data)

    def receive(self) -> bytes:
        return self._pipe.recv_bytes()

    def read(self, announced: bytes) -> Any:
        slot = self._reads + self._read % _AHEAD
        self._read += 1
        if len(announced) != _IN_SLOT.size:  # a message that fits a slot is never sent itself, so this one is long
            return reduction.ForkingPickler.loads(announced)
        (size,) = _IN_SLOT.unpack(announced)
        return reduction.ForkingPickler.loads(self._memory[slot * _SLOT : slot * _SLOT + size])


def _serve(pipe: Connection, arena: _Arena, function: Callable[[Any], Any]) -> None:
    """Answer items until the pipe closes; the parent decides about interrupts, and its death closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = _Channel(pipe, arena, writes=1, reads=0)
    items: deque[bytes] = deque()
    arrived = threading.Semaphore(0)

    def receive() -> None:
        # a thread of its own keeps the pipe empty: the parent never waits to send while this process waits to answer
        try:
            while True:
                items.append(channel.receive())
                arrived.release()
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        arrived.acquire()
        answer: Any
        try:
            answer = function(channel.read(items.popleft()))
        except DselectError as error:
            answer = error
        except Exception:  # noqa: BLE001  a defect: the parent shows it as its own
            answer = WorkerError(traceback.format_exc())
        try:
            channel.send(answer)
        except OSError:
            os._exit(0)


class WorkerError(Exception):
    """A defect met in a worker; its traceback is the message."""


class _ShortTemporaryFolder:
    """Let multiprocessing put its sockets into /tmp where TMPDIR is long: a socket's name has some 100 bytes only."""

    def __enter__(self) -> None:
        self._before = tempfile.tempdir
        if len(os.fsencode(tempfile.gettempdir())) > _LONG_FOLDER:
            tempfile.tempdir = "/tmp"  # noqa: S108  the folder made in it is this user's alone
        util.get_temp_dir()  # made once, and then used for all sockets

    def __exit__(self, *_: object) -> None:
        tempfile.tempdir = self._before


class _QuietInterrupts:
    """Start helpers with SIGINT ignored: Ctrl-C goes to the whole group, and only the parent should act on it."""

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

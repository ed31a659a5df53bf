"""An ordered parallel map: in this process, or over worker processes.

One call, `ordered_map`. Results come in the order of the items, whatever the number of jobs; only a bounded number of
items is in flight, so memory does not grow with their number.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from dselect.errors import DselectError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # items given to a worker at a time: one it works on, one already there when it is done
_PRELOAD = (
    "typer",
    "numpy",
    "orjson",
    "numba",
    "dselect.kernels.ngrams",
    "dselect.kernels.sha_ngrams",
    "dselect.kernels.statistics",
    "dselect.pipeline",
)


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


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """Yield function(item) for every item, in order, with `jobs` processes; with one job, in this process.

    The function travels to each worker once and must pickle; so must items and results. A DselectError in a
    worker is raised here, at its item's turn. A worker that dies raises DselectError. However the iteration ends, no
    process is left.
    """
    if jobs == 1:
        yield from map(function, items)
        return
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


class _Worker:
    """A process that answers each item with a result, in order, over its own pipe."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        # imported once, in the process that the workers are forked from: whatever this run has needed itself
        context.set_forkserver_preload([name for name in _PRELOAD if name in sys.modules])
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _QuietInterrupts():
            self.process.start()
        theirs.close()
        self.holds: deque[int] = deque()

    def send(self, number: int, item: object) -> None:
        try:
            self.pipe.send(item)
        except OSError as error:
            raise self._died() from error
        self.holds.append(number)

    def receive(self) -> tuple[int, Any]:
        try:
            answer = self.pipe.recv()
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


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Answer items until the pipe closes; the parent decides about interrupts, and its death closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    items: deque[Any] = deque()
    arrived = threading.Semaphore(0)

    def receive() -> None:
        # a thread of its own keeps the pipe empty: the parent never waits to send while this process waits to answer
        try:
            while True:
                items.append(pipe.recv())
                arrived.release()
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        arrived.acquire()
        answer: Any
        try:
            answer = function(items.popleft())
        except DselectError as error:
            answer = error
        except Exception:  # noqa: BLE001  a defect: the parent shows it as its own
            answer = WorkerError(traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            os._exit(0)


class WorkerError(Exception):
    """A defect met in a worker; its traceback is the message."""


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

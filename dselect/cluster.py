"""An ordered map over the machines of a Ray cluster: an item gives several results, which come in the items' order."""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dselect.errors import DselectError

Item = TypeVar("Item")
Result = TypeVar("Result")

RESULTS_AHEAD = 4  # of an item, that wait to be taken: then its machine pauses
TRIES = 9  # of an item whose machines are lost
_kept: dict[bytes, Any] = {}  # in a process of the cluster: the function it was last given


def flat_map_on_ray(
    function: Callable[[Item], Iterator[Result]], items: Iterable[Item], address: str | None, jobs: int
) -> Iterator[Result]:
    """Yield the results of function(item) for every item, in order, worked on by all CPUs of a Ray cluster.

    address: of the cluster; None for the one that RAY_ADDRESS names, else one on this machine with `jobs` CPUs. The
    function travels to each machine once. Items whose machine is lost are done again on another, so a function must
    give the same results each time. Twice as many items as there are CPUs are in flight, and a few results of each.
    DselectError where Ray is missing, no cluster answers, or an item fails for good.
    """
    ray = _start(address, jobs)
    try:
        flight = _Flight[Item, Result](ray, function)
        ahead = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        for item in items:
            flight.start(item)
            if len(flight) >= ahead:
                yield from flight.first()
        while len(flight):
            yield from flight.first()
    finally:
        ray.shutdown()  # what still runs for this process ends with it


@dataclass
class _Started(Generic[Item]):
    item: Item
    results: Any  # Ray's generator of references


class _Flight(Generic[Item, Result]):
    """Items that a cluster works on; the first one's results are wanted first.

    A machine that has done a few results of a later item holds its CPU until those are taken. An item that Ray itself
    does again would wait behind such ones for ever, once the cluster has become smaller. So when the first item is
    lost, all are started again in their order: little is lost, since none had more than a few results.
    """

    def __init__(self, ray: Any, function: Callable[[Item], Iterator[Result]]) -> None:
        self._ray = ray
        self._shared = ray.put(function)
        self._task = ray.remote(num_cpus=1, max_retries=0)(_results).options(
            num_returns="streaming", _generator_backpressure_num_objects=RESULTS_AHEAD
        )
        self._place = str(Path.cwd())  # names of files mean here what they mean to whoever typed them
        self._started: deque[_Started[Item]] = deque()

    def __len__(self) -> int:
        return len(self._started)

    def start(self, item: Item) -> None:
        """Let the cluster work on an item, after those that have been started."""
        self._started.append(_Started(item, self._run(item)))

    def first(self) -> Iterator[Result]:
        """Yield the results of the item that was started first."""
        errors = self._ray.exceptions
        taken = tries = 0
        while True:
            try:
                for number, one in enumerate(self._started[0].results):
                    result = self._ray.get(one)
                    if number == taken:  # not one of those that came before a machine was lost
                        taken += 1
                        yield result
                break
            except errors.RayError as error:
                tries += 1
                if tries == TRIES or isinstance(error, errors.RayTaskError):  # the latter is the function's own
                    what = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
                    raise DselectError(
                        f"the cluster failed: {type(error).__name__}: {what}", way_out="run again"
                    ) from error
                self._start_again()
        self._started.popleft()

    def _start_again(self) -> None:
        for one in self._started:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(one.results, force=True)
        for one in self._started:
            one.results = self._run(one.item)

    def _run(self, item: Item) -> Any:
        return self._task.remote([self._shared], self._shared.binary(), self._place, item)


def _start(address: str | None, jobs: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise DselectError("Ray is not installed", way_out="pip install 'dselect[ray]'") from error
    before = signal.getsignal(signal.SIGTERM)
    address = address or os.environ.get("RAY_ADDRESS")
    _answers(address)
    how: dict[str, Any] = (
        {"address": address} if address else {"address": "local", "num_cpus": jobs, "include_dashboard": False}
    )
    try:
        ray.init(**how, logging_level="ERROR", log_to_driver=False, configure_logging=True)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        what = " ".join(str(error).split())[:200]
        raise DselectError(
            f"no Ray cluster at {address or 'this machine'}: {what}", way_out="ray start --head makes one"
        ) from error
    except SystemExit:  # Ray's own answer to SIGTERM while it starts
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray puts its own there
    return ray


def _answers(address: str | None) -> None:
    """Raise DselectError where an address does not answer: Ray itself would end this process."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise DselectError(
                f"no Ray cluster at {address}: {error.strerror or error}", way_out="ray start --head makes one"
            ) from error


def _results(shared: list[Any], key: bytes, place: str, item: Any) -> Iterator[Any]:
    """Do an item: what a process of the cluster runs."""
    if key not in _kept:
        import ray

        _kept.clear()
        _kept[key] = ray.get(shared[0])
    if Path(place).is_dir():
        os.chdir(place)
    yield from _kept[key](item)

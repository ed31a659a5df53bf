"""An ordered map over the machines of a Ray cluster: an item gives several results, which come in the items' order."""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dselect.errors import DselectError

Item = TypeVar("Item")
Result = TypeVar("Result")

RESULTS_AHEAD = 4  # of an item, that wait to be taken: then its machine pauses
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
        shared = ray.put(function)
        task = ray.remote(num_cpus=1, max_retries=8)(_results).options(
            num_returns="streaming", _generator_backpressure_num_objects=RESULTS_AHEAD
        )
        ahead = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        key, place = shared.binary(), str(Path.cwd())  # names of files mean here what they mean to whoever typed them
        running: deque[Any] = deque()
        for item in items:
            running.append(task.remote([shared], key, place, item))
            if len(running) >= ahead:
                yield from _taken(ray, running.popleft())
        while running:
            yield from _taken(ray, running.popleft())
    finally:
        ray.shutdown()  # what still runs for this process ends with it


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
    how: dict[str, Any] = {"address": address} if address else {"num_cpus": jobs, "include_dashboard": False}
    try:
        ray.init(**how, logging_level="ERROR", log_to_driver=False, configure_logging=True)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        what = " ".join(str(error).split())[:200]
        raise DselectError(
            f"no Ray cluster at {address or 'this machine'}: {what}", way_out="ray start --head makes one"
        ) from error
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


def _taken(ray: Any, results: Any) -> Iterator[Any]:
    try:
        for one in results:
            yield ray.get(one)
    except ray.exceptions.RayError as error:
        what = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
        raise DselectError(f"the cluster failed: {type(error).__name__}: {what}", way_out="run again") from error


def _results(shared: list[Any], key: bytes, place: str, item: Any) -> Iterator[Any]:
    """Do an item: what a process of the cluster runs."""
    if key not in _kept:
        import ray

        _kept.clear()
        _kept[key] = ray.get(shared[0])
    if Path(place).is_dir():
        os.chdir(place)
    yield from _kept[key](item)

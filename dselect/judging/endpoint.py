"""Ask a language model behind an OpenAI-compatible endpoint: chat completions over HTTP, by httpx (extra `judge`).

What passes is tried again, with waits that double: 429, 408 and 5xx, time-outs, connections that break, answers that
are none. What does not pass stops the run: a key or a model that is refused. The key comes from the environment, and is
cut out of every message.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from dselect.errors import DselectError, UsageError

KEYS = ("DSELECT_API_KEY", "OPENAI_API_KEY")  # variables of the environment, the first that is set
LARGEST = 4 << 20  # bytes of an answer
LONGEST_WAIT = 60.0  # seconds
_PASSES = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_SECRET = re.compile(r"key|token|secret|sig", re.IGNORECASE)


class Refused(Exception):  # noqa: N818  it says what happened
    """The endpoint will not answer this prompt, whenever it is asked: a content filter, or a text too long."""


class _Passing(Exception):  # noqa: N818  it says what happened
    """Something that may be over the next time, and after how many seconds at the least."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass
class Pace:
    """At most so many requests a minute, evenly spaced; None for no limit."""

    a_minute: float | None
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, stopped: threading.Event) -> None:
        """Wait for this request's turn."""
        if self.a_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now)
            turn, self._next = self._next, self._next + 60 / self.a_minute
        stopped.wait(turn - now)


class Endpoint:
    """One model at one address. Safe to use from several threads.

    timeout: seconds until an answer must be complete. tries: how often a request is sent before the run gives up;
    first_wait: seconds before the second.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        timeout: float = 60.0,
        a_minute: float | None = None,
        tries: int = 8,
        first_wait: float = 0.25,
        answer_tokens: int = 16,
    ) -> None:
        self.address, self.model, self.timeout, self.tries = address, model, timeout, tries
        self.first_wait, self.answer_tokens = first_wait, answer_tokens
        self.requests = self.retries = 0
        self._pace = Pace(a_minute)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._several = True  # whether it takes `n`
        self._key = next((os.environ[name].strip() for name in KEYS if os.environ.get(name, "").strip()), "")
        if not self._key.isascii() or not self._key.isprintable():
            raise DselectError("the API key has characters that a header cannot hold", where="$" + " or $".join(KEYS))
        self._url = address_of(address)
        try:
            import httpx
        except ImportError as error:
            raise DselectError("--endpoint needs httpx", way_out="pip install 'dselect[judge]'") from error
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._httpx = httpx
        self._client = httpx.Client(timeout=timeout, headers=headers, limits=httpx.Limits(max_connections=None))

    def ask(self, prompt: str, count: int) -> list[str]:
        """Return so many sampled answers: by one request where the endpoint takes `n`, else one by one.

        Raises Refused where it will not answer, DselectError where it cannot be used.
        """
        found: list[str] = []
        several = self._several
        while len(found) < count:
            try:
                more = self._tried(prompt, count - len(found) if several else 1)
            except Refused:
                if not several or count - len(found) == 1:
                    raise
                several = False  # it may be `n` that is refused: if one answer is given, it was
                continue
            if not several:
                self._several = False
            found += more[: count - len(found)]
        return found

    def close(self) -> None:
        """Stop: whoever waits or is being answered fails soon."""
        self._stopped.set()
        self._client.close()

    def _tried(self, prompt: str, count: int) -> list[str]:
        """Return the answers to one request, sent until one comes."""
        for number in range(1, self.tries + 1):
            self._pace.wait(self._stopped)
            if self._stopped.is_set():
                raise DselectError("stopped", where=self.address)
            with self._lock:
                self.requests += 1
                self.retries += number > 1
            try:
                return self._sent(prompt, count)
            except _Passing as passing:
                if number == self.tries:
                    raise DselectError(
                        f"no answer after {number} tries: {passing}",
                        where=self.address,
                        way_out="run again later: what was answered is kept",
                    ) from passing
                wait = min(self.first_wait * 2 ** (number - 1), LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311
                self._stopped.wait(min(max(wait, passing.wait), LONGEST_WAIT))
        raise AssertionError

    def _sent(self, prompt: str, count: int) -> list[str]:
        """Send a request once and return its answers; _Passing, Refused or DselectError if there are none."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.answer_tokens,
            "temperature": 1,
        }
        if count > 1:
            body["n"] = count
        until = time.monotonic() + self.timeout
        try:
            with self._client.stream("POST", self._url, json=body) as response:
                data = b""
                for piece in response.iter_bytes():
                    data += piece
                    if time.monotonic() > until:
                        raise _Passing(f"no complete answer within {self.timeout:g} s")
                    if len(data) > LARGEST:
                        raise _Passing(f"an answer of more than {LARGEST >> 20} MiB")
                status, wait = response.status_code, _seconds(response.headers.get("Retry-After"))
        except self._httpx.TimeoutException as error:
            raise _Passing(f"no answer within {self.timeout:g} s") from error
        except self._httpx.UnsupportedProtocol as error:
            raise DselectError("not an http address", where=self.address) from error
        except (self._httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed
            raise _Passing(self._clean(str(error) or type(error).__name__)) from error
        if status != 200:
            self._refuse(status, self._clean(_message(data)), wait)
        try:
            answers = [choice["message"]["content"] for choice in json.loads(data)["choices"]]
        except (ValueError, LookupError, TypeError) as error:
            raise _Passing("an answer that is no chat completion") from error
        if not answers:
            raise _Passing("an answer without a choice")
        return [answer if isinstance(answer, str) else "" for answer in answers]

    def _refuse(self, status: int, message: str, wait: float) -> None:
        """Raise what a status means."""
        if status in _PASSES or status >= 500:
            raise _Passing(f"status {status}{message}", wait)
        if status in (400, 413, 422):
            raise Refused(f"status {status}{message}")
        where = self.address
        if status in (401, 403):
            way_out = f"the API key comes from ${' or $'.join(KEYS)}; " + (
                "it is refused" if self._key else "none is set"
            )
            raise DselectError(f"status {status}{message}", where=where, way_out=way_out)
        if status == 404:
            raise DselectError(
                f"status 404{message}", where=where, way_out="see --model, and --endpoint, which ends in /v1 as a rule"
            )
        raise DselectError(f"status {status}{message}", where=where)

    def _clean(self, message: str) -> str:
        """Return a message without the key, on one line and short."""
        if self._key:
            message = message.replace(self._key, "***")
        return "".join(c if c.isprintable() else " " for c in message)[:300]


def address_of(address: str) -> str:
    """Return where chat completions are asked for; UsageError for what is no address, or holds a secret."""
    from urllib.parse import parse_qsl, urlsplit, urlunsplit

    try:
        parts = urlsplit(address)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong:
        raise UsageError("--endpoint is no address of http or https", way_out="--endpoint http://localhost:8000/v1")
    secret = parts.username or parts.password or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query))
    if secret:
        raise UsageError(
            "--endpoint holds a name, a password or a key: it would be written into manifests",
            way_out=f"the key comes from ${' or $'.join(KEYS)}",
        )
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/chat/completions", fragment=""))


def _seconds(value: str | None) -> float:
    """Return what Retry-After says, 0 where it says a date or nothing."""
    try:
        return min(max(float(value or 0), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0


def _message(data: bytes) -> str:
    """Return what an error says of itself, `: MESSAGE`, or nothing."""
    try:
        found = json.loads(data)
        error = found.get("error", found)
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = data[:200].decode(errors="replace")
    return f": {text}" if text else ""

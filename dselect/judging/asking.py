"""Have a language model compare pairs of texts: prompts, votes in both orders, answers kept as they come.

Wettig et al. 2024, section 3.1: so many votes with either text first; p_b is the mean of b's shares of the votes in the
two orders, which cancels a preference for a place. A pair counts if more than half of the votes of each order can be
read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dselect.errors import DselectError, UsageError
from dselect.judging.judgments import Judgment, Pair

# The four criteria of the paper, in words of our own.
QUESTIONS = {
    "writing_style": "Which of these two texts is written in the better style? Prefer clear, polished and well-composed"
    " writing, whatever the subject and however difficult.",
    "required_expertise": "Which of these two texts takes more expertise and prior knowledge to understand? Judge by"
    " what a reader must have learnt before, not by how hard the sentences are.",
    "facts_and_trivia": "Which of these two texts holds more facts and trivia? Prefer specific facts about the world,"
    " also obscure ones, over opinions and generalities.",
    "educational_value": "Which of these two texts has more educational value? Prefer what explains, works step by"
    " step, or teaches a concept, as good lessons and textbooks do.",
}
FORM = """{question} Ignore how long each text is, that it may be cut off at either end, and the order they come in.

Text A:
[begin of text A]
{text_a}
[end of text A]

Text B:
[begin of text B]
{text_b}
[end of text B]

Answer with one letter and nothing else: A or B."""
BYTES_A_TOKEN = 4  # for estimates: about what English takes
_PLACES = re.compile(r"\{text_[ab]\}")
_VOTE = re.compile(r"\W*(?:(?:text|option|answer|choice)\W+)?([ab])\W*", re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
HOPELESS = 10  # refusals without a single answer before the run gives up


@dataclass(frozen=True)
class Criterion:
    """What is asked: a name, and a text with {text_a} and {text_b}."""

    name: str
    template: str

    def prompt(self, first: str, second: str) -> str:
        """Return the prompt that shows these texts as A and B."""
        texts = {"{text_a}": first, "{text_b}": second}
        return _PLACES.sub(lambda found: texts[found[0]], self.template)


def criterion_of(name: str) -> Criterion:
    """Return one of the four criteria by its name or how that begins; UsageError for another."""
    found = [full for full in QUESTIONS if full.startswith(name)]
    if len(found) != 1 or not name:
        raise UsageError(
            f"no criterion {name!r}", way_out=f"{', '.join(QUESTIONS)}; or --prompt FILE asks a question of your own"
        )
    return Criterion(found[0], FORM.replace("{question}", QUESTIONS[found[0]]))


def read_prompt(path: str, name: str | None) -> Criterion:
    """Read a question of the user's own: a text file with {text_a} and {text_b}, once each; DselectError if not."""
    try:
        template = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DselectError(f"cannot read this prompt: {error}", where=path) from error
    if sorted(_PLACES.findall(template)) != ["{text_a}", "{text_b}"]:
        raise DselectError(
            "a prompt needs {text_a} and {text_b}, once each", where=path, way_out="and should ask for A or B alone"
        )
    return Criterion(name or Path(path).stem, template)


def vote(answer: str) -> str | None:
    """Return the letter that an answer is, A or B; None if it is none or more than that."""
    found = _VOTE.fullmatch(_THOUGHT.sub("", answer))
    return found[1].upper() if found else None


@dataclass(frozen=True)
class Votes:
    """Of the answers to a prompt, how many say A, say B, and say neither; refused: the endpoint would not answer."""

    a: int = 0
    b: int = 0
    unreadable: int = 0
    refused: bool = False

    @classmethod
    def of(cls, answers: Sequence[str]) -> Votes:
        """Count."""
        found = [vote(answer) for answer in answers]
        return cls(found.count("A"), found.count("B"), found.count(None))


@dataclass(frozen=True)
class Question:
    """A prompt to be answered: of a pair and a criterion, a first or b first."""

    pair: int
    criterion: int
    turned: bool
    prompt: str

    def key(self, settings: Mapping[str, Any]) -> str:
        """Return what its answers are found by: a hash of the prompt, and of how it is asked."""
        asked = json.dumps([dict(settings), self.prompt], sort_keys=True).encode()
        return hashlib.blake2b(asked, digest_size=16).hexdigest()


def questions(pairs: Sequence[Pair], criteria: Sequence[Criterion]) -> Iterator[Question]:
    """Yield every question: each pair by each criterion in both orders."""
    for number, (a, b) in enumerate(pairs):
        for which, criterion in enumerate(criteria):
            yield Question(number, which, False, criterion.prompt(a.text, b.text))
            yield Question(number, which, True, criterion.prompt(b.text, a.text))


class Answers:
    """Answers by question, in memory and in a file that grows as they come: one line of JSON each, never rewritten."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._found: dict[str, Votes] = {}
        self._file: BinaryIO | None = None
        if path is not None:
            try:
                self._open(path)
            except DselectError:
                self.close()
                raise

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(0)
            data = self._file.read()
        except BlockingIOError:
            raise DselectError("another dselect is asking for these answers", where=str(path)) from None
        except OSError as error:
            raise DselectError(f"cannot write: {error.strerror}", where=str(path)) from error
        if data and not data.endswith(b"\n"):  # of a run that was killed in the midst of a line
            self._file.truncate(data.rindex(b"\n") + 1 if b"\n" in data else 0)
            data = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                found = json.loads(line)
                votes = Votes(int(found["a"]), int(found["b"]), int(found["unreadable"]), bool(found["refused"]))
                self._found[str(found["key"])] = votes
            except (ValueError, LookupError, TypeError) as error:
                raise DselectError(
                    "not an answer", where=f"{path}:{number}", way_out="--answers names another file"
                ) from error

    def get(self, key: str) -> Votes | None:
        """Return the answers to a question, None if it has not been asked."""
        return self._found.get(key)

    def add(self, key: str, votes: Votes) -> None:
        """Keep the answers to a question."""
        self._found[key] = votes
        if self._file is not None:
            try:
                self._file.write(json.dumps({"key": key, **votes.__dict__}).encode() + b"\n")
            except OSError as error:
                raise DselectError(f"cannot write: {error.strerror}", where=str(self.path)) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def ask_all(
    asked: Iterator[tuple[str, str]],
    ask: Callable[[str], Votes],
    answers: Answers,
    at_once: int,
    tell: Callable[[int], None] = lambda _: None,
) -> int:
    """Ask every (key, prompt), so many at a time, and keep the answers as they come; return how many there were.

    The first failure ends it. `tell` is told how many are done.
    """
    done = refused = waiting = 0
    todo: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
    came: queue.SimpleQueue[tuple[str, Votes | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while (one := todo.get()) is not None:
            try:
                came.put((one[0], ask(one[1])))
            except BaseException as error:  # noqa: BLE001  raised again where the answer is wanted
                came.put((one[0], error))

    for _ in range(at_once):  # daemons: a run that is interrupted does not wait for what is being answered
        threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            while waiting < 2 * at_once and (one := next(asked, None)) is not None:
                todo.put(one)
                waiting += 1
            if not waiting:
                return done
            key, votes = came.get()
            waiting -= 1
            if isinstance(votes, BaseException):
                raise votes
            answers.add(key, votes)
            done += 1
            refused += votes.refused
            tell(done)
            if refused == done >= HOPELESS:
                raise DselectError(f"the endpoint refuses every prompt, {done} of {done}", way_out="see --model")
    finally:
        for _ in range(at_once):
            todo.put(None)
        while not came.empty():  # what has been answered is kept, whatever ended the run
            key, votes = came.get()
            if isinstance(votes, Votes):
                answers.add(key, votes)


@dataclass
class Bias:
    """How the votes depend on the place of a text: shares of the votes for the one shown first, a pair each."""

    first: list[float] = field(default_factory=list)
    flipped: int = 0
    undecided: int = 0
    refused: int = 0
    unreadable: int = 0

    def facts(self) -> dict[str, Any]:
        """Return it for a summary: 1/2 is no bias."""
        share = float(np.mean(self.first)) if self.first else None
        return {
            "first_share": share,
            "flipped": self.flipped,
            "undecided": self.undecided,
            "refused": self.refused,
            "unreadable_votes": self.unreadable,
        }


def judgment(pair: Pair, criterion: str, straight: Votes, turned: Votes, asked: int, bias: Bias) -> Judgment | None:
    """Return what the votes in both orders say, None where those of one cannot be read; note how they depend on it."""
    bias.unreadable += straight.unreadable + turned.unreadable
    bias.refused += straight.refused or turned.refused
    if min(straight.a + straight.b, turned.a + turned.b) <= asked // 2:
        bias.undecided += 1
        return None
    one = straight.b / (straight.a + straight.b)  # b's share where it comes second
    two = turned.a / (turned.a + turned.b)  # and where it comes first
    bias.first.append((1 - one + two) / 2)
    bias.flipped += (one - 0.5) * (two - 0.5) < 0
    a, b = pair
    votes = straight.a + straight.b + turned.a + turned.b
    return Judgment(a.text, b.text, (one + two) / 2, votes, criterion, a.id, b.id)

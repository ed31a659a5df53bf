"""Add the number of tokens of every text."""
# Of a Hugging Face tokenizer, or of words or bytes, which need none. What --keep 2Mtok spends is this field.

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dselect.console import Run
from dselect.errors import DselectError
from dselect.options import As, Option, OutputOptions, Overwrite, PoolOptions, RunOptions
from dselect.pipeline import Kind, add_fields
from dselect.records.batch import Batch

TOGETHER = 64  # texts encoded in one call: what the library returns takes some 570 bytes a token

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens: of `bytes`, of `words`, or of the tokenizer.json that is the definition's text.

    The definition travels to the workers as text; each builds its tokenizer from it once.
    """

    definition: str
    special: bool = False
    name: str = "token_count"

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One size."""
        return {self.name: "size"}

    def score(self, batch: Batch) -> Mapping[str, Ints]:
        """Return the number of tokens of every text: int64 (n,); DselectError where the tokenizer refuses one."""
        if self.definition == "bytes":
            return {self.name: batch.text_bytes}
        if self.definition == "words":
            from dselect.kernels.ngrams import count_words

            return {self.name: count_words(batch.utf8)}
        counts: list[int] = []
        for start in range(0, len(batch), TOGETHER):
            counts += self._encoded(batch.texts[start : start + TOGETHER], batch.numbers[start : start + TOGETHER])
        return {self.name: np.array(counts, np.int64)}

    def _encoded(self, texts: Sequence[str], numbers: Sequence[int]) -> list[int]:
        """Return the counts of a few texts, which stand on the lines of these numbers."""
        tokenizer = _built(self.definition)
        try:
            return [len(found) for found in tokenizer.encode_batch_fast(texts, add_special_tokens=self.special)]
        except BaseException as error:
            if not _is_the_library_s(error):
                raise
            if len(texts) > 1:  # one by one, to say which it is
                return [self._encoded([t], [n])[0] for t, n in zip(texts, numbers, strict=True)]
            raise DselectError(f"the tokenizer cannot encode this text: {error}", where=f":{numbers[0]}") from error


@dataclass(frozen=True)
class AddCounts:
    """Lines with their token counts spliced in: the work of the pass."""

    counter: TokenCounter
    overwrite: bool

    def __call__(self, batch: Batch) -> tuple[bytes, int]:
        """Return the new lines as one block, and how many tokens they have."""
        values = self.counter.score(batch)
        return add_fields(batch, values, self.overwrite)[0], int(values[self.counter.name].sum())


def read_definition(name: str) -> str:
    """Return `bytes`, `words`, or the text of a tokenizer.json that can be used; DselectError if it cannot."""
    if name in ("bytes", "words"):
        return name
    try:
        definition = Path(name).read_text("utf-8")
    except OSError as error:
        raise DselectError(
            f"cannot read: {error.strerror}", where=name, way_out="--tokenizer takes a tokenizer.json, bytes or words"
        ) from error
    except UnicodeDecodeError as error:
        raise _foreign(name, "not UTF-8") from error
    # the jobs divide the work already
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    try:
        with _muffled():
            _built(definition)
    except ImportError as error:
        raise DselectError(
            "this needs the package tokenizers",
            where=f"--tokenizer {name}",
            way_out="pip install 'dselect[tokens]', or --tokenizer words",
        ) from error
    except BaseException as error:
        if not _is_the_library_s(error):
            raise
        raise _foreign(name, str(error)) from error
    return definition


@cache
def _built(definition: str) -> Any:
    """Return the tokenizer, which counts a text the same whatever it stands beside and however often it is asked."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(definition)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # merges skipped at random, for training
    return tokenizer


def _is_the_library_s(error: BaseException) -> bool:
    """Tell what the library raises: bare Exceptions, and of its panics a kind of its own that is no Exception."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _foreign(name: str, why: str) -> DselectError:
    return DselectError(
        f"not a tokenizer: {why}", where=name, way_out="the tokenizer.json of a Hugging Face model is one"
    )


@contextmanager
def _muffled() -> Iterator[None]:
    """Keep a panic's own report off stderr: it has dozens of lines, and its message comes with the error."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    tokenizer: Annotated[
        str, Option(metavar="FILE|words|bytes", help="A tokenizer.json of Hugging Face; or count words, or bytes.")
    ],
    special: Annotated[
        bool, Option("--special", help="Count the special tokens that the tokenizer puts around a text.")
    ] = False,
    field: As = "token_count",
    overwrite: Overwrite = False,
) -> None:
    """Add the number of tokens of every text, for budgets such as --keep 2Mtok.

    Adds the field token_count, an integer. A tokenizer.json needs pip install 'dselect[tokens]'; words and bytes
    need nothing.

    \b
    Example:
      dselect tokens pool.jsonl.zst --tokenizer words --overwrite -o counted.jsonl.zst
    """
    pool.check_new(field)
    counter = TokenCounter(read_definition(tokenizer), special, field)
    with Run("tokens", run) as talk:
        records = pool.open(run, talk, rereads=False)
        with output.open(records, run, alone=True) as sink:
            for source, (data, tokens) in records.map(AddCounts(counter, overwrite), "counting", rest=True):
                records.tallies.setdefault(source, Counter())["tokens"] += tokens
                sink.write(source, data)
    talk.report(records.counts, tokens=records.total("tokens"))

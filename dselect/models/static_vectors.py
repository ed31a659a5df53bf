"""Static vectors of tokens, as model2vec and sentence-transformers' StaticEmbedding save them: extra `tokens`.

A text's vector is the mean of its tokens' vectors, scaled to length 1.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dselect.errors import DselectError
from dselect.models.tables import Arrays

KIND = "static"
# where the folders of the two libraries have their files, and how the table is called in them
_FOLDERS = (".", "0_StaticEmbedding")
_TABLES = ("embeddings", "embedding.weight", "embedding")
_LARGEST = 1e30  # a sum of so many of these would overflow

Rows = np.ndarray[Any, np.dtype[np.float32]]


class StaticVectors:
    """Unit means of token vectors: int8 or floats from a safetensors file, tokens by tokenizer.json.

    Every token of a text counts, but special ones and those that stand for what the tokenizer does not know; a model's
    own `weights` and `mapping` of tokens to rows are heeded (model2vec). A text without tokens has the vector 0.
    """

    alone = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._load()

    def _load(self) -> None:
        folders = [Path(self.path) / name for name in _FOLDERS]
        folder = next((folder for folder in folders if (folder / "model.safetensors").is_file()), None)
        if folder is None:
            raise DselectError(
                "no model.safetensors in this folder", where=f"static:{self.path}",
                way_out="a folder that model2vec or sentence-transformers (StaticEmbedding) saved",
            )  # fmt: skip
        self._tokenizer, self._unknown = _tokenizer(folder)
        self._table = _table(folder / "model.safetensors", self._tokenizer.get_vocab_size())
        self.digest = _digest([folder / "model.safetensors", folder / "tokenizer.json"])

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return int(self._table.shape[1])

    def encode(self, texts: Sequence[bytes]) -> Rows:
        """Return the vector of every text: float32 (n, dimension), unit rows; zeros of a text without tokens."""
        from dselect.kernels.vectors import mean_rows

        found = self._tokenizer.encode_batch_fast([text.decode() for text in texts], add_special_tokens=False)
        tokens = [np.array(one.ids, np.uint32) for one in found]
        if self._unknown is not None:
            tokens = [one[one != self._unknown] for one in tokens]
        ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
        return mean_rows(self._table, np.concatenate([np.zeros(0, np.uint32), *tokens]), ends)

    def settings(self) -> dict[str, Any]:
        """Return what a model file says of it: where it is, and a digest of its files."""
        return {"encoder": KIND, "path": str(Path(self.path).resolve()), "digest": self.digest}

    def arrays(self) -> Arrays:
        """Return nothing: the vectors stay where they are."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the receiver finds in the folder."""
        return {"path": self.path, "digest": self.digest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the folder again."""
        self.path = state["path"]
        self._load()
        if self.digest != state["digest"]:
            raise DselectError("the encoder changed while it was in use", where=self.path, way_out="run again")


def _tokenizer(folder: Path) -> tuple[Any, int | None]:
    """Return the tokenizer of a folder, and the token that stands for what it does not know; it cuts nothing off."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the jobs are dselect's own
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DselectError("static: encoders need tokenizers", way_out="pip install 'dselect[tokens]'") from error
    path = folder / "tokenizer.json"
    try:
        text = path.read_text("utf-8")
        tokenizer = Tokenizer.from_str(text)
        model = json.loads(text)["model"]
        name = model.get("unk_token")
        number = model.get("unk_id")
    except Exception as error:  # the library raises bare exceptions
        raise DselectError(f"cannot read this tokenizer: {str(error)[:160]}", where=str(path)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, tokenizer.token_to_id(name) if isinstance(name, str) else number if type(number) is int else None


def _table(path: Path, vocabulary: int) -> Rows:
    """Return a vector for every token: float32 (vocabulary, d); DselectError if the file has none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, TypeError, ValueError) as error:  # TypeError: a type that numpy lacks
        raise DselectError(f"cannot read these vectors: {error}", where=str(path)) from error
    table = next((arrays[name] for name in _TABLES if name in arrays), None)
    if table is None or table.ndim != 2 or not table.shape[1] or table.dtype.kind not in "fi":
        raise DselectError(f"no table of vectors among: {', '.join(sorted(arrays))[:160]}", where=str(path))
    table = table.astype(np.float32)
    mapping, weights = arrays.get("mapping"), arrays.get("weights")
    if mapping is not None:
        if mapping.ndim != 1 or mapping.dtype.kind not in "iu" or (mapping < 0).any() or (mapping >= len(table)).any():
            raise DselectError("its mapping of tokens leads out of the table", where=str(path))
        table = table[mapping]
    if weights is not None:
        if weights.shape != (len(table),):
            raise DselectError("its weights are not one for each token", where=str(path))
        table = table * weights.astype(np.float32)[:, None]
    if len(table) < vocabulary:
        raise DselectError(f"{len(table):,} vectors, but the tokenizer has {vocabulary:,} tokens", where=str(path))
    if not (np.abs(table) <= _LARGEST).all():
        raise DselectError("not all of its vectors are finite", where=str(path))
    return np.ascontiguousarray(table)


def _digest(paths: Sequence[Path]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()

"""A causal language model of transformers, as a measure of texts: extra `neural`.

A text is scored alone: a start token, then every token of the text once, each with as many tokens before it as the
window allows. Windows overlap where a text is longer than one: the first tokens of the next are context only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dselect.errors import DselectError
from dselect.models.byte_lm import UNIFORM

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class CausalSettings:
    """How to compute.

    window: tokens seen at once; None for what the model says. stride: by how many tokens windows advance; None for half
    a window. batch_tokens: tokens computed at once.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    window: int | None = None
    stride: int | None = None
    batch_tokens: int = 8192


@dataclass(frozen=True)
class Window:
    """A piece of a text: which one, its tokens, and how many at its start are context only (at least one)."""

    text: int
    tokens: list[int]
    context: int


class CausalLM:
    """The model and its tokenizer. Only safetensors weights are read, and no code that comes with a model is run."""

    def __init__(self, path: str, settings: CausalSettings | None = None) -> None:
        self.settings = settings or CausalSettings()
        try:
            import torch
            import transformers
        except ImportError as error:
            raise DselectError(f"hf: models need {error.name}", way_out="pip install 'dselect[neural]'") from error
        self._torch = torch
        device = self.settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        what = "no tokenizer that transformers can read"
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            what = "not a causal model of transformers"
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, use_safetensors=True, dtype=getattr(torch, self.settings.dtype)
            )
            self._model = model.to(device).eval()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise DselectError(
                f"{what}: {reason[:160]}",
                where=f"hf:{path}",
                way_out="a folder with config.json, model.safetensors and tokenizer.json, or a name on the hub",
            ) from error
        self._device = device
        longest = self.settings.window or getattr(model.config, "max_position_embeddings", None) or 2048
        self.window = int(longest)
        self.stride = min(self.settings.stride or self.window // 2, self.window - 1)
        starts = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        self._start = next((token for token in starts if token is not None), None)

    def loss(self, texts: Sequence[bytes]) -> Floats:
        """Return the bits per byte of every text: float64 (n,); 8.0 for the empty text."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        return np.where(sizes == 0, UNIFORM, self.bits(texts) / np.maximum(sizes, 1))

    def bits(self, texts: Sequence[bytes]) -> Floats:
        """Return -log2 of the probability of every text: float64 (n,), in bits."""
        total = np.zeros(len(texts))
        windows: list[Window] = []
        for number, text in enumerate(texts):
            tokens = self._tokenizer(text.decode(), add_special_tokens=False, verbose=False)["input_ids"]
            if self._start is not None:
                tokens = [self._start, *tokens]
            elif tokens:
                total[number] = math.log2(self._model.config.vocab_size)  # nothing precedes it: any token as likely
            windows += windows_of(number, tokens, self.window, self.stride)
        for batch in batched(windows, self.settings.batch_tokens):
            for window, bits in zip(batch, self._score(batch), strict=True):
                total[window.text] += bits
        return total

    def _score(self, batch: Sequence[Window]) -> list[float]:
        """Return the bits of each window's tokens beyond its context."""
        tokens, mask = (self._torch.tensor(array, device=self._device) for array in padded(batch))
        with self._torch.inference_mode():
            logits = self._model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            return bits_beyond(batch, tokens, logits)


def windows_of(number: int, tokens: list[int], window: int, stride: int) -> Iterator[Window]:
    """Yield pieces of at most `window` tokens that advance by `stride`; every token but the first is scored in one."""
    done, start = 1, 0
    while done < len(tokens):
        piece = tokens[start : start + window]
        yield Window(number, piece, done - start)
        done = start + len(piece)
        start += stride


def batched(windows: Sequence[Window], tokens: int) -> Iterator[Sequence[Window]]:
    """Yield the windows, longest first, as many at a time as hold so many tokens: alike in length, little padding."""
    ordered = sorted(windows, key=lambda window: (-len(window.tokens), window.text))
    at = 0
    while at < len(ordered):
        count = max(tokens // len(ordered[at].tokens), 1)
        yield ordered[at : at + count]
        at += count


def padded(batch: Sequence[Window]) -> tuple[Ints, Ints]:
    """Return the tokens, zeros after the end of the shorter, and 1 where there are tokens: int64 (n, longest) each."""
    longest = max(len(window.tokens) for window in batch)
    tokens, mask = np.zeros((2, len(batch), longest), np.int64)
    for row, window in enumerate(batch):
        tokens[row, : len(window.tokens)] = window.tokens
        mask[row, : len(window.tokens)] = 1
    return tokens, mask


def bits_beyond(batch: Sequence[Window], tokens: Any, logits: Any) -> list[float]:
    """Return -log2 of the probability of each window's tokens beyond its context, from tensors (n, longest, …)."""
    import torch

    nats = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), tokens[:, 1:], reduction="none"
    ).double()
    return [
        float(nats[row, window.context - 1 : len(window.tokens) - 1].sum()) / math.log(2)
        for row, window in enumerate(batch)
    ]

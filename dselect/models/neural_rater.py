"""A rater that is a transformer, fine-tuned on pairwise judgments: extra `neural`.

Wettig et al. 2024, section 3.2: a head on a pre-trained model gives s, the loss is the mean cross-entropy of
logistic(s_b - s_a) against the soft label over all criteria together; AdamW with a weight decay of 0.1, a learning rate
that rises over the first tenth of the steps and then falls to 0. A text is scored in windows of 512 tokens, weighted by
their tokens. Only safetensors weights are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect.errors import DselectError
from dselect.models import tables

WINDOW = 512  # tokens, where the model can see as many
WARM = 0.1  # of the steps the learning rate rises over
DECAY = 0.1
TOGETHER = 32  # windows scored at once
_WEIGHT = "model "  # what the names of its arrays begin with

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune. batch: pairs a step; threads: of the CPU, None for what torch takes."""

    epochs: int = 2
    rate: float = 5e-5
    batch: int = 32
    seed: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Pairs:
    """Judged pairs of texts: positions of a and b, int64 (n, 2); the criterion of each, int64 (n,); labels (n,)."""

    pairs: Ints
    criteria: Ints
    p: Floats


class NeuralRater:
    """Ratings of texts by one or several criteria, in log-odds: a head of a transformer for each."""

    alone = True  # it has threads of its own, or a device

    def __init__(self, criteria: Sequence[str], model: Any, tokenizer: Any, pad: str) -> None:
        torch, _ = _libraries()
        self.criteria, self._tokenizer, self._pad = tuple(criteria), tokenizer, pad
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device)
        longest = getattr(model.config, "max_position_embeddings", None) or WINDOW
        self.window = min(WINDOW, int(longest))
        self.offsets_ = np.zeros(len(self.criteria))
        self._only = list(range(len(self.criteria)))

    @classmethod
    def of(cls, path: str, criteria: Sequence[str], seed: int) -> NeuralRater:
        """Return a pre-trained model of a folder with a new head; DselectError if it holds none."""
        torch, transformers = _libraries()
        torch.manual_seed(seed)
        what = "no fast tokenizer that transformers can read"
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, use_fast=True)
            if not tokenizer.is_fast:
                raise ValueError("it is a slow one")
            what = "not a model of transformers that can have a head"
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=len(criteria), use_safetensors=True, dtype=torch.float32, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise DselectError(
                f"{what}: {' '.join(str(error).split())[:160]}",
                where=f"hf:{path}",
                way_out="a folder with config.json, model.safetensors and tokenizer.json, or a name on the hub",
            ) from error
        pad = tokenizer.pad_token or tokenizer.eos_token
        if pad is None:
            raise DselectError("its tokenizer has neither a padding nor an end token", where=f"hf:{path}")
        tokenizer.pad_token = pad
        model.config.pad_token_id = tokenizer.pad_token_id
        return cls(criteria, model, tokenizer, pad)

    def fit(self, texts: Sequence[str], judged: Pairs, how: Tuning) -> NeuralRater:
        """Fine-tune on judgments of these texts: each one's first window is what is learnt from."""
        torch, transformers = _libraries()
        if how.threads:
            torch.set_num_threads(how.threads)
        torch.manual_seed(how.seed)
        steps = max(how.epochs * -(-len(judged.p) // how.batch), 1)
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=how.rate, weight_decay=DECAY)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(WARM * steps), steps)
        self._model.train()
        for batch in _batches(len(judged.p), how):
            used, inverse = np.unique(judged.pairs[batch], return_inverse=True)
            inputs = self._tokenizer(
                [texts[i] for i in used.tolist()], truncation=True, max_length=self.window, padding=True,
                return_tensors="pt",
            ).to(self._device)  # fmt: skip
            scores = self._model(**inputs).logits
            at = torch.as_tensor(inverse.reshape(-1, 2), device=self._device)
            column = torch.as_tensor(judged.criteria[batch], device=self._device)
            gaps = scores[at[:, 1], column] - scores[at[:, 0], column]
            labels = torch.as_tensor(judged.p[batch], dtype=gaps.dtype, device=self._device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(gaps, labels)
            if not bool(torch.isfinite(loss)):
                raise DselectError("the loss is not finite any more", way_out="a lower --lr")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        self._model.eval()
        return self

    def centre(self, texts: Sequence[str]) -> None:
        """Let the mean of these texts be 0."""
        self.offsets_ = np.zeros(len(self.criteria))
        self.offsets_ = self.rate([text.encode() for text in texts]).mean(axis=0)

    def only(self, criteria: Sequence[str]) -> NeuralRater:
        """Return the rater by some of its criteria alone."""
        at = [self.criteria.index(name) for name in criteria]
        self._only, self.criteria, self.offsets_ = at, tuple(criteria), self.offsets_[at]
        return self

    def rate(self, texts: Sequence[bytes]) -> Floats:
        """Return every UTF-8 text's rating by each criterion: float64 (n, criteria); within 1e-5 in any company."""
        torch, _ = _libraries()
        self._model.eval()
        windows, owner, weights = self._windows(texts)
        scores = np.zeros((len(windows), len(self._only)))
        order = np.argsort([-len(window) for window in windows], kind="stable")
        for start in range(0, len(order), TOGETHER):
            at = order[start : start + TOGETHER]
            inputs = self._tokenizer.pad({"input_ids": [windows[i] for i in at]}, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                found = self._model(**inputs).logits.double().cpu().numpy()
            scores[at] = found[:, self._only]
        total = np.bincount(owner, weights, len(texts))
        columns = [np.bincount(owner, weights * column, len(texts)) / total for column in scores.T]
        return np.stack(columns, axis=1) - self.offsets_

    def _windows(self, texts: Sequence[bytes]) -> tuple[list[list[int]], Ints, Floats]:
        """Return the tokens of every window, whose it is, and of how many tokens of the text."""
        found = self._tokenizer(
            [text.decode() for text in texts], truncation=True, max_length=self.window, return_overflowing_tokens=True,
            verbose=False,
        )  # fmt: skip
        special = self._tokenizer.num_special_tokens_to_add()
        windows = [tokens or [self._tokenizer.pad_token_id] for tokens in found["input_ids"]]
        weights = [max(len(tokens) - special, 1) for tokens in windows]
        owner = np.array(found["overflow_to_sample_mapping"], np.int64)
        return windows, owner, np.array(weights, np.float64)

    def to_bytes(self) -> bytes:
        """Return the rater as one safetensors file: weights, configuration and tokenizer."""
        settings = {
            "rater": "hf",
            "criteria": list(self.criteria),
            "config": self._model.config.to_dict(),
            "tokenizer": self._tokenizer.backend_tokenizer.to_str(),
            "special": {name: str(value) for name, value in self._tokenizer.special_tokens_map.items()},
            "pad": self._pad,
        }
        state = self._model.state_dict()
        arrays = {f"{_WEIGHT}{name}": value.cpu().contiguous().numpy() for name, value in state.items()}
        return tables.to_bytes("qurating", settings, {**arrays, "offsets": self.offsets_})

    @classmethod
    def from_file(cls, settings: Mapping[str, Any], arrays: tables.Arrays, path: str) -> NeuralRater:
        """Return the rater that a file holds; DselectError if it is not sound."""
        torch, transformers = _libraries()
        try:
            from tokenizers import Tokenizer

            criteria = list(settings["criteria"])
            config = dict(settings["config"])
            config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
            model = transformers.AutoModelForSequenceClassification.from_config(config)
            state = {
                name.removeprefix(_WEIGHT): torch.as_tensor(np.array(value))
                for name, value in arrays.items()
                if name.startswith(_WEIGHT)
            }
            model.load_state_dict(state)
            tokenizer = transformers.PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer.from_str(settings["tokenizer"]), **settings["special"]
            )
            tokenizer.pad_token = settings["pad"]
            rater = cls(criteria, model, tokenizer, settings["pad"])
            rater.offsets_ = np.array(arrays["offsets"])
            if rater.offsets_.shape != (len(criteria),) or model.config.num_labels != len(criteria):
                raise ValueError("its criteria are not those of its model")
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise DselectError(
                f"not a sound qurating model: {' '.join(str(error).split())[:160]}",
                where=path,
                way_out="fit it again with --save",
            ) from error
        return rater


def _batches(count: int, how: Tuning) -> Iterator[Ints]:
    """Yield the judgments of each step: every epoch all of them, in an order drawn by the seed."""
    for epoch in range(how.epochs):
        order = list(range(count))
        random.Random(f"{how.seed} {epoch}").shuffle(order)  # noqa: S311  an order, not a secret
        for start in range(0, count, how.batch):
            yield np.array(order[start : start + how.batch], np.int64)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise DselectError(f"hf: raters need {error.name}", way_out="pip install 'dselect[neural]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers

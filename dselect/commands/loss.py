"""Score records by what language models make of them: bits per byte."""
# The cross-entropy of a text under a model, -log2 p(text) / its UTF-8 bytes: comparable between tokenizers. What
# perplexity filters, difference sampling (MiniPLM), PreSelect and data mixing start from.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from dselect.console import Run
from dselect.errors import UsageError
from dselect.models.byte_lm import ByteLM
from dselect.models.causal_lm import CausalLM, CausalSettings
from dselect.options import Option, OutputOptions, Overwrite, PoolOptions, RunOptions, Sidecar
from dselect.pipeline import Kind, annotate
from dselect.records.batch import Batch

Floats = np.ndarray[Any, np.dtype[np.float64]]

_NAMED = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<file>.+)", re.DOTALL)


class LanguageModel(Protocol):
    """Whatever gives a text a probability."""

    def loss(self, texts: list[bytes]) -> Floats:
        """Return the bits per byte of every text: float64 (n,); 8.0 for the empty text."""


@dataclass(frozen=True)
class Losses:
    """The loss of a text under each of some models: costs, in bits per UTF-8 byte."""

    models: Mapping[str, LanguageModel]

    @property
    def fields(self) -> Mapping[str, Kind]:
        """One cost a model."""
        return {f"loss_{name}": "cost" for name in self.models}

    def score(self, batch: Batch) -> Mapping[str, Floats]:
        """Return each model's loss: float64 (n,)."""
        texts = batch.utf8
        return {f"loss_{name}": model.loss(texts) for name, model in self.models.items()}


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    model: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=FILE|NAME=hf:PATH",
            help="A model that `lm` fitted, or a causal model of transformers; gives loss_NAME. Again for more.",
        ),
    ] = None,
    device: Annotated[str, Option(help="Of hf: models: auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Option(help="Of hf: models.")] = "float32",
    window: Annotated[
        int | None, Option(min=2, help="Of hf: models: tokens seen at once. [default: what the model says]")
    ] = None,
    stride: Annotated[
        int | None, Option(min=1, help="Of hf: models: by how many tokens windows advance. [default: half a window]")
    ] = None,
    batch_tokens: Annotated[int, Option(min=1, help="Of hf: models: tokens computed at once.")] = 8192,
    overwrite: Overwrite = False,
    sidecar: Sidecar = None,
) -> None:
    """Score records by what language models make of them: the field loss_NAME (lower is better), in bits per byte.

    Each text is scored alone; the empty one gets 8, as if any byte were as likely.

    \b
    Example:
      dselect lm target.jsonl.zst -o target.lm
      dselect loss pool.jsonl.zst --model target=target.lm -o losses.jsonl.zst
    """
    if not model:
        raise UsageError("loss needs a model", way_out="--model NAME=FILE; dselect lm makes one")
    with Run("loss", run) as talk:
        losses = Losses(_load(model, CausalSettings(device, dtype, window, stride, batch_tokens)))
        if any(isinstance(one, CausalLM) for one in losses.models.values()):
            run.jobs = 1  # torch has threads of its own, and a device is not shared out
            if pool.engine != "local":
                raise UsageError(
                    "a model of transformers runs where it was loaded", way_out="--shard I/N on each machine"
                )
        records = pool.open(run, talk, rereads=False)
        with output.open(records, run, alone=True, sidecar=sidecar) as sink:
            facts = annotate(records, losses, sink, overwrite, sidecar=bool(sidecar))
    talk.report(records.counts, **facts)


def _load(named: list[str], settings: CausalSettings) -> dict[str, LanguageModel]:
    models: dict[str, LanguageModel] = {}
    for text in named:
        found = _NAMED.fullmatch(text)
        assert found
        name = found["name"] or Path(found["file"]).name.split(".")[0]
        if name in models:
            raise UsageError(f"two models would give the field loss_{name}", way_out="--model NAME=FILE")
        path = found["file"]
        models[name] = CausalLM(path[3:], settings) if path.startswith("hf:") else ByteLM.load(path)
    return models

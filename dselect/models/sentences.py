"""Vectors of a transformer, by sentence-transformers: extra `neural`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dselect.errors import DselectError
from dselect.models.tables import Arrays

KIND = "st"
_WAY_OUT = "a folder that sentence-transformers saved, or a name on the hub"
_ON_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

Rows = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class SentenceSettings:
    """How to compute. threads: of the CPU; None for what torch takes. batch: texts computed at once."""

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = 32
    threads: int | None = None


class Sentences:
    """A model of sentence-transformers. Only safetensors weights are read, and no code that comes with a model is run.

    What is beyond the model's own window of a text is not seen. Vectors agree within 1e-5 across batches, not to the
    last bit.
    """

    alone = True

    def __init__(self, path: str, settings: SentenceSettings | None = None) -> None:
        self.path, self.how = path, settings or SentenceSettings()
        if not Path(path).is_dir() and not _ON_HUB.fullmatch(path):
            raise DselectError("no such folder", where=f"st:{path}", way_out=_WAY_OUT)
        try:
            import torch
            from huggingface_hub.utils import logging as hub_logging
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise DselectError(f"st: encoders need {error.name}", way_out="pip install 'dselect[neural]'") from error
        if self.how.threads:
            torch.set_num_threads(self.how.threads)
        device = self.how.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        hub_logging.set_verbosity_error()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            self._model = SentenceTransformer(
                path, device=device, trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": getattr(torch, self.how.dtype)},
            ).eval()  # fmt: skip
        except Exception as error:  # whatever the two libraries and the hub's raise
            raise DselectError(
                f"not a model of sentence-transformers: {' '.join(str(error).split())[:160]}",
                where=f"st:{path}",
                way_out=_WAY_OUT,
            ) from error
        self.dimension = len(self.encode([b"a"])[0])

    def encode(self, texts: Sequence[bytes]) -> Rows:
        """Return the vector of every text: float32 (n, dimension), unit rows."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        # the library computes the longest texts first: those of a batch are alike in length
        rows = self._model.encode(
            [text.decode() for text in texts],
            batch_size=self.how.batch,
            show_progress_bar=False,
            convert_to_tensor=True,
            normalize_embeddings=True,
        )
        return np.ascontiguousarray(rows.float().cpu().numpy())

    def settings(self) -> dict[str, Any]:
        """Return what a model file says of it: where it is."""
        return {"encoder": KIND, "path": self.path}

    def arrays(self) -> Arrays:
        """Return nothing: the model stays where it is."""
        return {}

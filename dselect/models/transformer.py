"""A small decoder-only transformer over bytes, trained from nothing: extra `neural`.

Pre-norm blocks (GPT-2's), learned positions, tied embeddings. Token 256 begins a text. Sizes: `tiny` (0.13 million
parameters and small steps: of six shapes tried for 50 seconds of one core it came to the lowest loss), `small` (0.9
million) and `base` (26 million).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dselect.errors import DselectError
from dselect.models.causal_lm import batched, bits_beyond, padded, windows_of

START = 256
CONTEXT = 256  # bytes seen at once
_WARMUP = 50

Size = Literal["tiny", "small", "base"]
SHAPES: dict[Size, tuple[int, int, int, int, float]] = {  # width, blocks, heads; windows a step; learning rate
    "tiny": (64, 2, 4, 2, 3e-3),
    "small": (128, 4, 4, 16, 2e-3),
    "base": (512, 8, 8, 16, 2e-3),
}

Floats = np.ndarray[Any, np.dtype[np.float64]]


def train_and_test(
    texts: Sequence[bytes], targets: Sequence[bytes], steps: int, seed: int, size: Size = "small"
) -> Floats:
    """Train on the texts and return -log2 of the probability of every target: float64 (n,), in bits.

    A step is some windows of 256 bytes at random places of the texts, put end to end: 16, of a tiny model 2.
    DselectError without torch.
    """
    device = device_here()
    import torch

    torch.manual_seed(seed)
    width, blocks, heads, batch, rate = SHAPES[size]
    model = _build(width, blocks, heads).to(device)
    stream = torch.tensor(np.concatenate([np.array([START, *text], np.int64) for text in texts]), device=device)
    _train(model, stream, steps, batch, rate)
    return _test(model, targets, device)


def device_here() -> str:
    """Return where a model is trained: cuda or cpu. DselectError without torch."""
    try:
        import torch
    except ImportError as error:
        raise DselectError("a transformer needs torch", way_out="pip install 'dselect[neural]'") from error
    return "cuda" if torch.cuda.is_available() else "cpu"


def _train(model: Any, stream: Any, steps: int, batch: int, rate: float) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    window = min(CONTEXT, len(stream) - 1)
    offsets = torch.arange(window + 1)
    model.train()
    for step in range(steps):
        warm = min((step + 1) / max(min(_WARMUP, steps // 10), 1), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        places = torch.randint(0, len(stream) - window, (batch, 1))  # of the CPU's generator, on any device
        tokens = stream[(places + offsets).to(stream.device)]
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _test(model: Any, targets: Sequence[bytes], device: str) -> Floats:
    import torch

    model.eval()
    bits = np.zeros(len(targets))
    windows = [
        window
        for number, text in enumerate(targets)
        for window in windows_of(number, [START, *text], CONTEXT, CONTEXT // 2)
    ]
    with torch.inference_mode():
        for batch in batched(windows, 16 * CONTEXT):
            tokens = torch.tensor(padded(batch)[0], device=device)
            for window, more in zip(batch, bits_beyond(batch, tokens, model(tokens)), strict=True):
                bits[window.text] += more
    return bits


def _build(width: int, layers: int, heads: int) -> Any:
    """Return a module: tokens int64 (n, t) → logits (n, t, 257)."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = self.mixed(self.before(x)).view(n, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(n, t, width))
            return x + self.down(nn.functional.gelu(self.up(self.between(x))))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(START + 1, width), nn.Embedding(CONTEXT, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.last = nn.LayerNorm(width)
            for embedding in (self.tokens, self.places):
                nn.init.normal_(embedding.weight, std=0.02)
            for name, parameter in self.named_parameters():  # the residual stream begins small (GPT-2)
                if name.endswith(("out.weight", "down.weight")):
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
            return self.last(self.blocks(x)) @ self.tokens.weight.T

    return Transformer()

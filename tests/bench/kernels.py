"""Scoring alone, of texts in memory, as a worker does it: print the bytes of text and the seconds of CPU.

python tests/bench/kernels.py dsir|loss MODEL FILE…
"""

import sys
import time

import orjson

from dselect.commands.loss import Losses
from dselect.importance import Dsir
from dselect.models.byte_lm import ByteLM
from dselect.records.batch import Batch
from dselect.records.decompression import chunks
from dselect.records.sources import discover

BLOCK = 300  # texts at a time, about a block of records


def main() -> None:
    """Read everything, then score it block by block; the first block is scored once before, for what is compiled."""
    kind, model, *names = sys.argv[1:]
    lines = [line for name in names for line in b"".join(chunks(discover([name])[0])).splitlines()]
    texts = [orjson.loads(line)["text"] for line in lines]
    scorer = Dsir.load(model) if kind == "dsir" else Losses({"x": ByteLM.load(model)})
    empty = [b""] * BLOCK
    batches = [Batch(empty, [], texts[i : i + BLOCK], []) for i in range(0, len(texts), BLOCK)]
    scorer.score(batches[0])
    began = time.process_time()
    for batch in batches:
        scorer.score(batch)
    print(sum(len(text.encode()) for text in texts), time.process_time() - began)


if __name__ == "__main__":
    main()

"""KenLM at work, for `make bench`: score bytes as words under a model of order 6; print bytes and seconds of CPU.

python official_kenlm.py FIT.jsonl NEW.jsonl MODEL.arpa

KenLM's own estimator is not on PyPI. What a look-up costs does not depend on the numbers, so the n-grams of the fit get
made-up probabilities here, and only the scoring is measured.
"""

import json
import sys
import time
from pathlib import Path

import kenlm
import numpy as np

ORDER = 6


def read(name: str) -> list[bytes]:
    """Return the texts of a file of records, as UTF-8."""
    return [json.loads(line)["text"].encode() for line in Path(name).read_bytes().splitlines()]


def write_arpa(texts: list[bytes], path: str) -> None:
    """Write every n-gram of the bytes of each text, up to the order, in the format that KenLM loads."""
    names = np.array([f"{byte:02x}" for byte in range(256)])
    held = []
    for length in range(1, ORDER + 1):
        keys = []
        for text in texts:
            data = np.frombuffer(text, np.uint8).astype(np.uint64)
            key = np.zeros(max(len(data) - length + 1, 0), np.uint64)
            for place in range(length):
                key = (key << np.uint64(8)) | data[place : place + len(key)]
            keys.append(np.unique(key))
        held.append(np.unique(np.concatenate(keys)))
    with open(path, "w", encoding="ascii") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {n}={len(keys) + 3 * (n == 1)}\n" for n, keys in enumerate(held, 1))
        for n, keys in enumerate(held, 1):
            file.write(f"\n\\{n}-grams:\n")
            end = "\n" if n == ORDER else "\t-0.3\n"
            if n == 1:
                file.writelines(f"-5\t{word}{end}" for word in ("<unk>", "<s>", "</s>"))
            words = [names[((keys >> np.uint64(8 * (n - 1 - i))) & np.uint64(255)).astype(int)] for i in range(n)]
            file.writelines(f"-1\t{' '.join(gram)}{end}" for gram in zip(*words, strict=True))
        file.write("\n\\end\\\n")


def main() -> None:
    """Score the new texts; splitting them into words is not counted."""
    fit, new, arpa = sys.argv[1:]
    write_arpa(read(fit), arpa)
    model = kenlm.Model(arpa)
    texts = read(new)
    words = [text.hex(" ") for text in texts]
    began = time.process_time()
    for line in words:
        model.score(line, bos=False, eos=False)
    print(sum(map(len, texts)), time.process_time() - began)


if __name__ == "__main__":
    main()

"""Make the log importance weights of data-selection 1.0.3, the package of the DSIR paper, that dselect must reproduce.

In an environment of its own (NLTK 3.8.1 splits words with Python's `re`; releases since then may do so with `regex`,
for which combining marks are part of a word, and their weights differ):

    pip install data-selection==1.0.3 nltk==3.8.1 joblib zstandard
    python tests/vectors/dsir_reference.py [FOLDER OF REAL CORPORA]

It writes `dsir_reference.json` from the texts below, and with the folder `dsir_reference_real.json`: numbers only, no
text. Both were made with Python 3.11 (Unicode 14), fitted on all, in one process.
"""

import base64
import io
import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = [(2, 10_000), (1, 97), (3, 65_537)]  # n-grams, buckets
REAL_TARGET = "dsir_toy_pile"
FIRST = 80  # records of every file of real corpora

WORDS = [
    "the tree stands in a green field and nobody knows why it was planted there don't can't re-use e.g. 3.14 x_1",
    "la niña comió piñones über straße Ærø naïve façade ŁÓDŹ œuvre ĲSSEL İstanbul ISPARTA ığdır ŉ ǆ",
    "ΟΔΥΣΣΕΥΣ Σίσυφος ΣΑΣ λόγος άνθρωπος ΠΟΛΙΣ ἀρχή",
    "дерево стоит в зелёном поле Ёлка съезд й и\u0306",
    "हिन्दी में एक छोटा पेड़ खड़ा है क्या",
    "שָׁלוֹם עץ בשדה ירוק",
    "شجرة فِي الحقل الأخضر ١٢٣ لا",
    "一棵树 站在 绿色的 田野 里 , 没有人 知道 。 木が 立っている ガ ｶﾞ 나무가 서 있다",
    "ต้นไม้ ยืนอยู่ ใน ทุ่งนา",
    "def f ( x ) : return x ** 2 != y [ 0 ] -> {} // <- <= ::= && || \\n $HOME #!/bin/sh",
    "👩‍👩‍👧 👍🏽 ½ ² Ⅷ ① ﬁn 𝔘𝔫𝔦 𐐀𐐨 \u0000 \u200b \u00ad \ufeff € … — “quoted” ‹x›",
]
SPACES = [" ", " ", " ", "\n", "\t", "  ", "\u00a0", "\u2028", "\u0085", "\x1c", "\u3000", ""]


def documents():
    """Return texts in several scripts, of every length about 100 words, and words of every length about a block."""
    chance = random.Random(20230207)
    texts = ["", " \n", "one", "one two", "\u0301", "a\u0301 \u0301b"]
    for number in range(90):
        vocabulary = [word for line in chance.sample(WORDS, 1 + number % 3) for word in line.split(" ")]
        pieces = []
        for word in chance.choices(vocabulary, k=chance.choice([5, 60, 95, 99, 100, 101, 150, 400])):
            pieces += [word, chance.choice(SPACES)]
        texts.append("".join(pieces))
    texts += [" ".join(["tree"] * count) for count in (98, 99, 100, 101)]
    texts += [" ".join("abcdefghij"[k % 10] * k for k in range(1, 140)), "é" * 31 + " " + "樹" * 21 + " " + "x" * 5000]
    return texts


def targets():
    """Return the texts of two targets."""
    chance = random.Random(7)
    return [
        [" ".join(chance.choices(WORDS[line].split(" "), k=60)) for line in lines for _ in range(5)]
        for lines in ([0, 1, 2, 4], [7, 9, 10])
    ]


def real(folder):
    """Return the first records of every file of the pool, and the records of the target, as lines."""
    lines = []
    for path in sorted((folder / "pool").glob("*.jsonl.zst")):
        lines += decompressed(path)[:FIRST]
    return lines, decompressed(folder / "targets" / f"{REAL_TARGET}.jsonl.zst")


def decompressed(path):
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True)
    return io.TextIOWrapper(reader, "utf-8", newline="\n").readlines()


def as_lines(texts):
    return [json.dumps({"text": text}) + "\n" for text in texts]


def decoded(numbers):
    """Return the float64 that `_encoded` stored."""
    import numpy as np

    return np.frombuffer(base64.b64decode(numbers), "<f8")


def _encoded(numbers):
    return base64.b64encode(numbers.astype("<f8").tobytes()).decode()


def _weights(folder, pool, wanted, ngrams, buckets, separate):
    """Return the package's log importance weights, and which records it finds long enough."""
    import numpy as np
    from data_selection import HashedNgramDSIR

    for name, lines in {"pool": pool, **{f"target{i}": lines for i, lines in enumerate(wanted)}}.items():
        (folder / name).write_text("".join(lines), "utf-8")
    model = HashedNgramDSIR(
        [str(folder / "pool")],
        [str(folder / f"target{i}") for i in range(len(wanted))],
        str(folder / "cache"),
        num_proc=1,
        ngrams=ngrams,
        num_buckets=buckets,
        separate_targets=separate,
    )
    model.fit_importance_estimator(num_tokens_to_fit="all")
    model.compute_importance_weights()
    weights = np.load(folder / "cache" / "log_importance_weights" / "0.npy")
    words = np.load(folder / "cache" / "perexample_metadata" / "0.npy")
    return weights, model.perexample_metadata_filter(words)


def main():
    import tempfile

    def weights(*arguments):
        with tempfile.TemporaryDirectory() as folder:
            return _weights(Path(folder), *arguments)

    pool, wanted = as_lines(documents()), [as_lines(texts) for texts in targets()]
    found = []
    for ngrams, buckets in SETTINGS:
        for separate in (False, True):
            numbers, long = weights(pool, wanted, ngrams, buckets, separate)
            columns = numbers.T if separate else [numbers]
            kept = "".join(map(str, long.astype(int)))
            found.append(
                {
                    "ngrams": ngrams,
                    "buckets": buckets,
                    "separate": separate,
                    "weights": [_encoded(column) for column in columns],
                    "long": kept,
                }
            )
    (HERE / "dsir_reference.json").write_text(json.dumps(found, indent=1) + "\n")
    if len(sys.argv) > 1:
        lines, target = real(Path(sys.argv[1]))
        numbers, long = weights(lines, [target], 2, 10_000, False)
        answer = {"weights": _encoded(numbers), "long": "".join(map(str, long.astype(int)))}
        (HERE / "dsir_reference_real.json").write_text(json.dumps(answer) + "\n")
        print(len(lines), "records")


if __name__ == "__main__":
    main()

"""Make the similarities of zip-fit 1.0.9, the package of the ZIP-FIT paper, that `zipfit --score ncd` must give.

In an environment of its own (the package imports two others that it does not ask for):

    pip install zip-fit==1.0.9 brotli zstandard
    python tests/vectors/zipfit_reference.py

It writes `zipfit_reference.json`: for gzip levels 1, 6 and 9, the similarity of each of `sources()` to `targets()`, as
the package ranks them. Made with Python 3.11 and zlib 1.2.13; another zlib may compress to other sizes.
"""

import json
import random
import zlib
from pathlib import Path

PATH = Path(__file__).parent / "zipfit_reference.json"
LEVELS = [1, 6, 9]
PROSE = "the of and to in a is that for it as was with be by on not he his but at are this have from or had an".split()
CODE = "def return if else for in range print len self ( ) : = == + [ ] None True while import".split()


def texts(seed: int, count: int) -> list[str]:
    """Return prose and code in turn, of 5 to 400 words, no two the same."""
    draw = random.Random(seed)
    return [" ".join(draw.choices([PROSE, CODE][i % 2], k=draw.randint(5, 400))) for i in range(count)]


def sources() -> list[str]:
    """Return the texts to score: among them one longer than deflate's window, one of one letter, other scripts."""
    long = " ".join(texts(7, 60))
    return [*texts(1, 40), "x", "\n", "漢字 हिन्दी 🤖 café", "a" * 5000, long, targets()[0]]


def targets() -> list[str]:
    """Return the texts to score by."""
    return [*texts(2, 10), "é"]


def main() -> None:
    """Ask the package."""
    from zip_fit import ZIPFIT

    found = {}
    for level in LEVELS:
        fit = ZIPFIT("", "", k=10**6, compression_algorithm="gzip", compress_level=level)
        scores = dict(fit.rank_sequences_by_alignment(sources(), targets()))
        found[str(level)] = [float(scores[text]) for text in sources()]
    PATH.write_text(json.dumps({"zlib": zlib.ZLIB_RUNTIME_VERSION, "similarities": found}) + "\n", "ascii")


if __name__ == "__main__":
    main()

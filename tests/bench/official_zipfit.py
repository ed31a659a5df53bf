"""The official ZIP-FIT package at work, for `make bench`: rank at gzip level 6, in one process; print the seconds.

python official_zipfit.py POOL.jsonl TARGET.jsonl
"""

import sys
import time

from zip_fit import ZIPFIT, zipfit


def main() -> None:
    """Rank everything; reading is not counted."""
    pool, target = sys.argv[1:]
    zipfit.cpu_count = lambda: 1
    fit = ZIPFIT(pool, target, k=10**9, compression_algorithm="gzip", compress_level=6)
    texts = fit.load_jsonl(pool), fit.load_jsonl(target)
    began = time.perf_counter()
    fit.rank_sequences_by_alignment(*texts)
    print(f"seconds {time.perf_counter() - began:.3f}")


if __name__ == "__main__":
    main()

"""The official DSIR package at work, for `make bench`: fit, score, or both; prints the seconds each took.

python official_dsir.py POOL.jsonl TARGET.jsonl FOLDER JOBS
"""

import sys
import time

from data_selection import HashedNgramDSIR


def main() -> None:
    """Fit on everything and write log importance weights."""
    pool, target, folder, jobs = sys.argv[1:]
    began = time.perf_counter()
    dsir = HashedNgramDSIR([pool], [target], cache_dir=folder, num_proc=int(jobs), ngrams=2, num_buckets=10_000)
    dsir.fit_importance_estimator(num_tokens_to_fit="all")
    fitted = time.perf_counter()
    dsir.compute_importance_weights()
    print(f"{fitted - began:.3f} {time.perf_counter() - fitted:.3f}")


if __name__ == "__main__":
    main()

"""Does the mixture that `climb` finds help?  Beside a random draw of the pool and the one best domain.

python tests/bench/mixtures.py FOLDER [ngram|transformer|proxy] [TARGET...]

The folder is that of `make evaluation`. Mixtures are found on half of a target and tested on the other half, after
training on 2 MB, or on all of the best domain where it holds less: nothing is repeated. The best domain is the one that
the n-gram proxy likes best on the first half. `proxy` adds a climb on the transformer: 16, 8 and 4 mixtures, 200 steps
each. Files go to build/mixtures.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from dselect.commands.climb import BYTES
from dselect.mixtures.domains import Field
from dselect.mixtures.portions import Held
from dselect.mixtures.proxies import NgramProxy
from dselect.pool import Pool
from dselect.records.sources import discover

FOLDER = Path("build/mixtures")
SIZE = 2_100_000  # a little more than is trained on, so that seeds differ
spec = importlib.util.spec_from_file_location("evaluation", Path(__file__).parents[2] / "docs" / "evaluation.py")
evaluation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evaluation)


def dselect(*arguments):
    command = [str(argument) for argument in arguments]
    print("dselect", *command, flush=True)
    subprocess.run([sys.executable, "-m", "dselect", *command], check=True)


def best_domain(pool, fit):
    """Return the domain that alone serves a target best, by the n-gram proxy."""
    opened = Pool(discover([str(pool)]), rereads=True)
    held = Held(opened, Field("source"), BYTES, 0)
    texts = [text for _, batch in Pool(discover([str(fit)])).map(lambda batch: batch) for text in batch.utf8]
    proxy = NgramProxy(opened, held, Field("source"), [texts], SIZE, 6)
    alone = {name: proxy.bits(row)[0] for name, row in zip(held.names, np.eye(len(held.names)), strict=True)}
    print("best domains:", sorted((round(bits, 4), name) for name, bits in alone.items())[:3])
    return min(alone, key=alone.get)


def main(data, what, targets):
    judge = ["--lm", "transformer", "--size", "tiny", "--steps", 1000, "--seeds", 1] if what == "transformer" else []
    pool = data / "pool"
    for name in targets:
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        fit, heldout = evaluation.halves(data / "targets" / f"{name}.jsonl.zst", folder)
        made = [folder / f"{way}.jsonl.zst" for way in ("random", "best_domain", "climb")]
        keep = ["--keep", f"{SIZE}B"]
        once = [*keep, "--max-repeats", 1]
        dselect("select", pool, *keep, "--seed", 1, "-o", made[0])
        if not made[1].exists():
            mixture = folder / "best_domain.json"
            mixture.write_text(f'{{"{best_domain(pool, fit)}": 1}}')
            dselect("mix", pool, "--within", "source", "--weights", mixture, *once, "-o", made[1])
        climb = ["climb", pool, "--within", "source", "--target", fit, *once]
        dselect(*climb, "--save", folder / "climb.json", "-o", made[2])
        if what == "proxy":
            made.append(folder / "climb_transformer.jsonl.zst")
            trained = ["--proxy", "transformer", "--steps", 200, "--rounds", "16,8,4"]
            dselect(*climb, *trained, "--save", folder / "climb_transformer.json", "-o", made[-1])
        fair = ["--budget", "2MB", "--allow-short", "--baseline", made[0], "--within", "source"]
        dselect("eval", *made, "--target", heldout, *fair, *judge)


if __name__ == "__main__":
    main(Path(sys.argv[1]), (sys.argv[2:] or ["ngram"])[0], sys.argv[3:] or evaluation.TARGETS)

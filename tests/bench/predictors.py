"""How well predictors rank mixtures that they have not seen: the public RegMix runs, 17 domains, 13 losses.

python tests/bench/predictors.py FOLDER    (which holds regmix_{train,test}_{mixture,pile_loss}_1m.csv)

Fitted to n of the 512 mixtures of the training file, tested on the 256 of the test file. Of 64 and 112 points, four
draws; of 512, all. LightGBM stands twice: as `climb` has it, and as CLIMB's recipe has it (depth 4, leaves of 5,
L1 = L2 = 1, stopped early on a tenth of the points). A row per loss, then means.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from dselect.models.predictors import PREDICTORS

SIZES = {64: 4, 112: 4, 512: 1}


class ClimbsTrees:
    """LightGBM with the settings of the NeMo Curator recipe for CLIMB."""

    def fit(self, weights, losses):
        import lightgbm

        out = np.arange(len(losses)) % 10 == 9
        train = lightgbm.Dataset(weights[~out], losses[~out])
        settings = {"learning_rate": 0.01, "max_depth": 4, "min_data_in_leaf": 5, "lambda_l1": 1, "lambda_l2": 1}
        patience = max(1, min(20, int(out.sum())))
        self.trees = lightgbm.train(
            {"objective": "regression", "verbosity": -1, "num_threads": 1, "seed": 42, **settings},
            train,
            1000,
            valid_sets=[lightgbm.Dataset(weights[out], losses[out], reference=train)],
            callbacks=[lightgbm.early_stopping(patience, verbose=False)],
        )
        return self

    def predict(self, weights):
        return self.trees.predict(weights)


def read(path):
    with path.open() as file:
        header, *rows = csv.reader(file)
    return header[1:], np.array(rows, float)[:, 1:]


def normalized(weights):
    return weights / weights.sum(axis=1, keepdims=True)


def main(folder):
    _, weights = read(folder / "regmix_train_mixture_1m.csv")
    names, losses = read(folder / "regmix_train_pile_loss_1m.csv")
    weights, unseen = normalized(weights), normalized(read(folder / "regmix_test_mixture_1m.csv")[1])
    true = read(folder / "regmix_test_pile_loss_1m.csv")[1]
    columns, worst = {}, {}
    for name, make in {**PREDICTORS, "lightgbm (CLIMB)": ClimbsTrees}.items():
        for size, draws in SIZES.items():
            found = np.array(
                [
                    [
                        spearmanr(make().fit(weights[at], losses[at, c]).predict(unseen), true[:, c])[0]
                        for c in range(len(names))
                    ]
                    for at in (np.random.default_rng(draw).permutation(512)[:size] for draw in range(draws))
                ]
            )
            columns[name, size] = found.mean(axis=0)
            worst[name, size] = found.min()
            print(f"{name}, {size} points", file=sys.stderr, flush=True)
    print("| loss |", " | ".join(f"{name}, {size}" for name, size in columns), "|")
    print("|---|", "---:|" * len(columns))
    for c, name in enumerate(names):
        short = name.removeprefix("metric/the_pile_").removesuffix("_val_loss")
        print(f"| {short} |", " | ".join(f"{column[c]:.3f}" for column in columns.values()), "|")
    print("| **mean** |", " | ".join(f"**{column.mean():.3f}**" for column in columns.values()), "|")
    print("| lowest of one draw |", " | ".join(f"{low:.3f}" for low in worst.values()), "|")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

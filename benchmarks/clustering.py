"""Clusters of scikit-learn's 1,797 digits without labels, jointly with reconstruction, beside k-means on their pixels.

Scored by labels that no training sees: on all digits, and on the 15 % that were held out of it. With --unlike the digits come
in unlike numbers, from all zeros to a tenth of the nines.

Run: python -m benchmarks.clustering [--seeds 5] [--epochs 50] [--unlike] [--targets balanced dec]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from polytask.experiment import fit
from polytask.recipe import Recipe
from polytask.sources import Arrays
from polytask.tasks import _groups as groups

K = 10
WARMUP = 0.24  # of all epochs
METRICS = {"nmi": groups.nmi, "ari": groups.ari, "accuracy": groups.matched_accuracy}


def digits(unlike: bool) -> Arrays:
    """The images as bytes with their labels."""
    found = load_digits()
    chosen = np.arange(len(found.target))
    if unlike:
        shares = np.linspace(1, 0.1, K)
        each = [np.flatnonzero(found.target == digit) for digit in range(K)]
        chosen = np.sort(np.concatenate([rows[: round(share * len(rows))] for rows, share in zip(each, shares, strict=True)]))
    return Arrays((found.images[chosen] * 255 / 16).astype(np.uint8), {"digit": found.target[chosen]})


def recipe(source: Arrays, targets: str, epochs: int, seed: int) -> Recipe:
    """A small convolutional autoencoder, whose bottleneck is clustered."""
    return Recipe(
        sources=[source],
        tasks=[
            {
                "kind": "clustering",
                "name": "group",
                "column": "digit",
                "targets": targets,
                "warmup": round(WARMUP * epochs),
            },
            {"kind": "reconstruction", "name": "image", "head": {"kind": "upsampling", "links": False}},
        ],
        encoder={"kind": "cnn", "widths": [32, 64], "vector": 64, "dropout": 0},
        trainer={"epochs": epochs, "device": "cpu"},
        seed=seed,
    )


def scores(group: torch.Tensor, digit: torch.Tensor) -> list[str]:
    """The metrics, and the sizes of the smallest and the largest group."""
    sizes = torch.bincount(group, minlength=K)
    return [*(f"{metric(group, digit):.3f}" for metric in METRICS.values()), f"{int(sizes.min())}-{int(sizes.max())}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--unlike", action="store_true")
    parser.add_argument("--targets", nargs="+", default=["balanced", "dec"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    source = digits(asked.unlike)
    table = source.read()
    digit = torch.tensor(table["digit"].to_pylist())
    pixels = table["image"].combine_chunks().to_numpy_ndarray().reshape(len(digit), -1)
    print(f"torch {torch.__version__}, one thread, {len(digit):,} digits, {asked.epochs} epochs")
    print(f"| {'':20} | seed |   nmi |   ari | accuracy |   sizes | held out: nmi | seconds |\n|{'---|' * 8}")
    for seed in range(asked.seeds):
        group = torch.from_numpy(KMeans(K, n_init=10, random_state=seed).fit_predict(pixels)).long()
        nmi, ari, accuracy, sizes = scores(group, digit)
        print(f"| {'k-means on pixels':20} | {seed:4} | {nmi} | {ari} | {accuracy:>8} | {sizes:>7} | {'':13} | {'':7} |")
    for targets in asked.targets:
        found = []
        for seed in range(asked.seeds):
            began = time.process_time()
            run = fit(recipe(source, targets, asked.epochs, seed))
            seconds = time.process_time() - began
            nmi, ari, accuracy, sizes = scores(torch.tensor(run.predict(table)["group"].to_pylist()), digit)
            held_out = run.scores()["group"].scores["nmi"].value
            found.append(float(nmi))
            line = (
                f"| {targets:20} | {seed:4} | {nmi} | {ari} | {accuracy:>8} | {sizes:>7} | {held_out:13.3f} | {seconds:7.0f} |"
            )
            print(line, *(note for note in run.record["notes"] if "clusters" in note), flush=True)
        print(f"{targets}: nmi {statistics.mean(found):.3f} on average, {min(found):.3f} at least")


if __name__ == "__main__":
    main()

"""Every balancer with every engine on real tables: the loss on the test rows of each task, and the seconds that training takes.

Run: python -m benchmarks.balancers [--sets kc_house,adult] [--kinds equal,cagrad] [--keep FILE] [--seeds 1] [--quick]
     python -m benchmarks.balancers --full --seeds 3          (the recipes' own network and length: hours)

The data are found through POLYTASK_DATA, else in ../shared/data. Each balancer trains the same small network on the same rows
for the same number of epochs (BUDGET), and keeps the weights of the epoch with the best mean validation loss. A loss is in
units of the best constant's: 1 knows nothing. The rows of a table are sorted by the mean over tasks. A difference that another
seed does not show says nothing, and nobody was tuned: the table says that each of them trains, and at what cost.

With --keep every run is written to a file as soon as it is there, and what the file has is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks._trainings import Training, Trainings
from benchmarks.balancing import balancers, engine_of
from benchmarks.tables import ROOT, SETS, with_changes
from polytask.balancer import Balancer
from polytask.preparation import prepare

DEFAULT_SETS = ("kc_house", "adult")
BUDGET = (
    "encoder={kind: table, width: 128}",
    "trainer.batch_size=512",
    "trainer.best=mean",
    "trainer.patience=never",
    "trainer.device=cpu",
)
EPOCHS, QUICK_EPOCHS = "trainer.epochs=15", "trainer.epochs=1"
REFERENCE = "equal"


def fits(
    name: str, asked: Sequence[Balancer], changes: Sequence[str], seeds: int, file: Path | None = None
) -> Iterator[list[Training]]:
    """For each balancer its trainings on a set, by seed; those that the file does not have are done, and added to it."""
    trainings, recipe = Trainings(file), with_changes(SETS[name][name](), changes)
    prepared = prepare(recipe)
    for balancer in asked:
        found = trainings(name, recipe, prepared, changes, {"balancer": balancer}, seeds)
        print(f"{name} {balancer.kind} {engine_of(balancer)}: {found[0].seconds:.1f} s", flush=True)
        yield found


def show(name: str, results: Sequence[tuple[Balancer, Sequence[Training]]]) -> None:
    """Print a table, the least mean loss first."""
    tasks = list(results[0][1][0].losses)
    losses = [{task: float(np.mean([fit.losses[task] for fit in found])) for task in tasks} for _, found in results]
    seconds = [float(np.mean([fit.seconds for fit in found])) for _, found in results]
    reference = next((s for s, (balancer, _) in zip(seconds, results, strict=True) if balancer.kind == REFERENCE), seconds[0])
    print(f"\n{name}\n\n| balancer | gradients | " + " | ".join(tasks) + f" | mean | seconds | to {REFERENCE} |")
    print("|---|---|" + "---:|" * (len(tasks) + 3))
    means = [float(np.mean(list(one.values()))) for one in losses]
    for i in np.argsort(means, kind="stable"):
        balancer = results[i][0]
        cells = [f"{losses[i][task]:.3f}" for task in tasks]
        cells += [f"**{means[i]:.3f}**", f"{seconds[i]:.1f}", f"{seconds[i] / reference:.2f}"]
        print(f"| {balancer.kind} | {engine_of(balancer)} | " + " | ".join(cells) + " |")


def main() -> None:
    """Train, then print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(DEFAULT_SETS), help=f"of {','.join(s for s in SETS if s in SETS[s])}")
    parser.add_argument("--kinds", help="of balancers")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="a file of JSON lines, for the runs; what it has is not run")
    parser.add_argument(
        "--full", action="store_true", help="the recipes as they are: a larger network, until it stops by itself"
    )
    parser.add_argument("--quick", action="store_true", help="one epoch")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="FIELD=VALUE", help="change the recipes")
    given = parser.parse_args()
    names, kinds = given.sets.split(","), given.kinds.split(",") if given.kinds else Balancer.kinds()
    for words, known in ((names, [s for s in SETS if s in SETS[s]]), (kinds, Balancer.kinds())):
        if strangers := [word for word in words if word not in known]:
            parser.error(f"no {strangers[0]!r}: give some of {', '.join(known)}")
    torch.set_num_threads(1)
    budget = [] if given.full else [*BUDGET, QUICK_EPOCHS if given.quick else EPOCHS]
    changes, asked = [*budget, *given.changes], balancers(kinds)
    print(f"torch {torch.__version__}, one thread, {given.seeds} seeds; changes: {', '.join(changes) or 'none'}\n")
    results = {}
    for name in names:
        if not (ROOT / name).is_dir():
            print(f"{name}: not in {ROOT}; POLYTASK_DATA names the folder that holds it")
            continue
        results[name] = list(zip(asked, fits(name, asked, changes, given.seeds, given.keep), strict=True))
    for name, found in results.items():
        show(name, found)


if __name__ == "__main__":
    main()

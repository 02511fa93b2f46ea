"""What missing labels cost a task that is trained alone, and what training it together with the others gives back.

Run: python -m benchmarks.missing [--sets kc_house,adult] [--shares 0,30,60,90] [--seeds 3] [--quick] [--set F=V]

A share of the labels is hidden at random, each task's by a draw of its own, so that a row may keep some and lose others. The
labels of the validation rows are hidden too: where labels are rare they are rare for stopping as well, and a task that learns
from few but stops by many would look better than it is. The labels of the test rows stay, and judge. Alone, a task sees the
rows that have its label; together, the network sees the rows that have any. Both have the same settings. What a task knows of
its labels before training (center and scale, classes, the best constant and its loss) is that of all training labels, for both
and whatever the share, so that all losses are in one unit: 1 knows nothing. The intervals are over test rows and seeds; each
seed has its own weights and hides other labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.tables import (
    ALONE,
    QUICK_EPOCHS,
    ROOT,
    SETS,
    TOGETHER,
    Losses,
    change_text,
    compared,
    ratio_interval,
    scattered,
    with_changes,
)
from polytask.batch import Dataset
from polytask.evaluation.verdict import compare_losses
from polytask.fitting import row_losses, train_bundle
from polytask.preparation import Prepared, prepare
from polytask.recipe import Recipe
from polytask.seeding import derived_seed

MADE = {title: make for makers in SETS.values() for title, make in makers.items()}
FOLDERS = {title: folder for folder, makers in SETS.items() for title in makers}
DEFAULT_SETS, DEFAULT_SHARES, QUICK_SHARES = ("kc_house", "adult"), (0.0, 30.0, 60.0, 90.0), (0.0, 90.0)


@dataclass(frozen=True)
class Hidden:
    """What was lost on the test rows while a share of the other rows' labels was hidden.

    Attributes:
        share: In percent.
        losses: By task and method.
        labels: The training labels that were left, per task, as a mean over seeds.
    """

    share: float
    losses: Mapping[str, Mapping[str, Losses]]
    labels: Mapping[str, float]


def with_hidden(prepared: Prepared, share: float, seed: int) -> Prepared:
    """The data without ``share`` percent of the labels of the training and validation rows.

    What is hidden of a larger share holds what is hidden of a smaller one.
    """

    def hidden(part: str) -> Dataset:
        data: Dataset = getattr(prepared, part)
        present = {}
        for task, mask in data.present.items():
            draw = np.random.default_rng(derived_seed(seed, "hidden", part, task))
            present[task] = mask & torch.from_numpy(draw.random(data.n_rows) >= share / 100)
        return replace(data, present=present)

    return replace(prepared, training=hidden("training"), validation=hidden("validation"))


def measure(recipe: Recipe, prepared: Prepared, shares: Sequence[float], seeds: int) -> Iterator[Hidden]:
    """Train every task alone and all together at each share."""
    fitted = {one.task.name: one for one in prepared.tasks}
    for share in shares:
        losses: dict[str, dict[str, list[Losses]]] = {task: {ALONE: [], TOGETHER: []} for task in fitted}
        labels = dict.fromkeys(fitted, 0.0)
        for seed in range(seeds):
            data = with_hidden(prepared, share, seed)
            for task in fitted:
                labels[task] += float(data.training.present[task].sum()) / seeds
            for method, groups in ((ALONE, [[task] for task in fitted]), (TOGETHER, [list(fitted)])):
                for group in groups:
                    bundle, _ = train_bundle(recipe, data, tasks=group, seed=seed)
                    for task, values in row_losses(bundle, data.test.select(group)).items():
                        losses[task][method].append(scattered(values, fitted[task], data, "test"))
        stacked = {task: {method: np.stack(runs) for method, runs in methods.items()} for task, methods in losses.items()}
        yield Hidden(share, stacked, labels)


def show(found: Hidden, whole: Hidden) -> None:
    """Print what was lost at a share, beside what is lost at the least one."""
    for task, methods in found.losses.items():
        labeled = ~np.isnan(methods[ALONE][0])
        before, now = (one.losses[task][ALONE][:, labeled] for one in (whole, found))
        cost = "" if found is whole else change_text(compare_losses(task, before, now))
        means = "  ".join(f"{np.nanmean(methods[method]):8.4f}" for method in (ALONE, TOGETHER))
        shared = compared(methods, ALONE, task)
        row = f"{task:<16} {found.share:5.0f} % {found.labels[task]:8,.0f}  {means}   {cost:<24}"
        print(f"{row} {change_text(shared):<22} {shared.verdict}", flush=True)


def summarize(results: Sequence[Sequence[Hidden]]) -> None:
    """Print the geometric mean over all tasks of what sharing does, by share."""
    print("\nLoss ratio of together to alone, geometric mean over all tasks; bootstrap 95 % interval over rows and seeds")
    for at_share in zip(*results, strict=True):
        ratio, low, high = ratio_interval([list(found.losses.values()) for found in at_share], ALONE)
        print(f"{at_share[0].share:5.0f} % hidden  {ratio:.3f} [{low:.3f}, {high:.3f}]")


def run(recipes: Mapping[str, Recipe], shares: Sequence[float], seeds: int, changes: Sequence[str] = ()) -> list[list[Hidden]]:
    """Measure and print every data set, then what they say together."""
    results = []
    for name, recipe in recipes.items():
        asked = with_changes(recipe, changes)
        prepared = prepare(asked)
        print(f"\n{name}: {prepared.training.n_rows:,} training and {prepared.test.n_rows:,} test rows; seeds: {seeds}")
        print(
            f"{'task':<16} {'hidden':>7} {'labels':>8}  {ALONE:>8}  {TOGETHER:>8}   {'cost of hiding alone, %':<24} "
            f"{'together to alone, %':<22} sharing"
        )
        results.append([])
        for found in measure(asked, prepared, shares, seeds):
            results[-1].append(found)
            show(found, results[-1][0])
    if results:
        summarize(results)
    return results


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(DEFAULT_SETS), help=f"of {','.join(MADE)}")
    parser.add_argument("--shares", default=None, help="percent of the labels to hide, the least first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_EPOCHS} epochs, two shares")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="FIELD=VALUE", help="change the recipes")
    given = parser.parse_args()
    names = given.sets.split(",")
    if strangers := [name for name in names if name not in MADE]:
        parser.error(f"no set {strangers[0]!r}: give some of {', '.join(MADE)}")
    default = QUICK_SHARES if given.quick else DEFAULT_SHARES
    shares = default if given.shares is None else [float(share) for share in given.shares.split(",")]
    if min(shares) < 0 or max(shares) >= 100:
        parser.error("a share is a percentage from 0 to less than 100")
    changes = [*([f"trainer.epochs={QUICK_EPOCHS}"] if given.quick else []), *given.changes]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; changes: {', '.join(changes) or 'none'}")
    absent = [name for name in names if not (ROOT / FOLDERS[name]).is_dir()]
    for name in absent:
        print(f"\n{name}: not in {ROOT}; POLYTASK_DATA names the folder that holds it")
    recipes = {name: MADE[name]() for name in names if name not in absent}
    run(recipes, shares, 1 if given.quick else given.seeds, changes)


if __name__ == "__main__":
    main()

"""Losses on real tables: a constant, a linear model, boosted trees, polytask alone per task and polytask for all tasks at once.

Run: python -m benchmarks.tables [--sets kc_house,student] [--seeds 3] [--quick] [--validation-only] [--skip alone] [--set F=V]
     python -m benchmarks.tables --sets adult --save adult.npz; python -m benchmarks.tables --saved adult.npz,others.npz

The data are found through POLYTASK_DATA, else in ../shared/data. Every method sees the same rows and the same encoded inputs
and stops early on the same validation rows. A loss is a task's own (squared error, log loss, Poisson deviance) in units of the
best constant's on the training rows: 1 knows nothing, and ratios compare methods. To choose settings use --validation-only and
--set; the test rows are for the settings that were chosen.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, PoissonRegressor, RidgeCV
from torch.nn import functional

from polytask.batch import Dataset
from polytask.evaluation.boosting import SMALLEST, Predictor, best_boosted, boosted, outputs_of
from polytask.evaluation.verdict import TaskComparison, compare_losses
from polytask.fitted import FittedTask
from polytask.fitting import row_losses, train_bundle
from polytask.preparation import Prepared, prepare
from polytask.recipe import Recipe, changed
from polytask.sources import ARFF, CSV, Frame
from polytask.tasks import Binary, Count, Multiclass, Regression

ROOT = Path(os.environ.get("POLYTASK_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
METHODS = ("constant", "linear", "boosting", "boosting+", "alone", "together")
LINEAR, BOOSTING, BOOSTING_BEST, ALONE, TOGETHER = METHODS[1:]
PARTS = ("validation", "test")
N_RESAMPLES = 1000
TELLING = 0.05  # a part on which the constant loses less than this share of its training loss has next to nothing to predict
QUICK_SETS, QUICK_EPOCHS = ("student", "mulan_mtr"), 10

Losses = NDArray[np.float64]  # [seeds, rows], nan where a row has no label


def kc_house() -> Recipe:
    """House sales. Living area is the sum of two columns; a house may be sold twice."""
    table = CSV(ROOT / "kc_house" / "kc_house_data.csv").read()
    table = table.append_column("log_price", pc.ln(table["price"]))
    return Recipe(
        sources=[Frame(table, name="kc_house")],
        tasks=[
            Regression("log_price"),
            Regression("sqft_living"),
            Multiclass("condition"),
            Multiclass("grade"),
            Binary("waterfront"),
        ],
        drop=["price", "sqft_above", "sqft_basement"],
        split={"group": "id"},
    )


def bike_sharing() -> Recipe:
    """Bicycles hired in an hour; the latest hours judge."""
    path = ROOT / "bike_sharing" / "hour.csv"
    tasks = [Count("casual"), Count("registered")]
    return Recipe(sources=[CSV(path)], tasks=tasks, drop=["cnt", "dteday", "instant"], split={"time": "instant"})


def adult() -> Recipe:
    """A census, with its own test file."""
    names = (
        "age workclass fnlwgt education education_num marital occupation relationship race sex gain loss hours country income"
    )
    folder, options = ROOT / "adult", {"header": False, "missing": ("?",), "strip": ".", "comment": "|"}
    source = CSV(folder / "adult.data", test=folder / "adult.test", names=tuple(names.split()), **options)
    return Recipe(sources=[source], tasks=[Binary("income"), Multiclass("marital"), Regression("hours")])


def student() -> Recipe:
    """Final grades in two schools' files, without the grades before them."""
    folder = ROOT / "student"
    sources = [CSV(folder / "student-mat.csv", name="mat"), CSV(folder / "student-por.csv", name="por")]
    tasks = [Regression("maths", column="G3", source="mat"), Regression("portuguese", column="G3", source="por")]
    return Recipe(sources=sources, tasks=tasks, drop=["G1", "G2"])


def mulan(name: str, n_targets: int) -> Callable[[], Recipe]:
    """A set of mulan_mtr; the targets are its last columns."""

    def recipe() -> Recipe:
        source = ARFF(ROOT / "mulan_mtr" / f"{name}.arff")
        return Recipe(sources=[source], tasks=[Regression(target) for target in source.read().column_names[-n_targets:]])

    return recipe


SETS: dict[str, dict[str, Callable[[], Recipe]]] = {
    "kc_house": {"kc_house": kc_house},
    "bike_sharing": {"bike_sharing": bike_sharing},
    "adult": {"adult": adult},
    "student": {"student": student},
    "mulan_mtr": {name: mulan(name, n) for name, n in (("enb", 2), ("slump", 3), ("sf1", 3), ("sf2", 3))},
}


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with other settings of the network and its training; texts as for ``--set``."""
    settings = {key: recipe.to_dict()[key] for key in ("encoder", "sharing", "head", "balancer", "trainer")}
    return Recipe(**{**{key: getattr(recipe, key) for key in type(recipe).model_fields}, **changed(settings, changes)})


@dataclass(frozen=True)
class Results:
    """What every method lost on a data set.

    Attributes:
        name: The data set.
        rows: How many of them each part has.
        losses: By part, task and method.
        seconds: CPU time by method, per seed.
    """

    name: str
    rows: Mapping[str, int]
    losses: Mapping[str, Mapping[str, Mapping[str, Losses]]]
    seconds: Mapping[str, float]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """As arrays by unique names."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for part, tasks in self.losses.items():
            for task, methods in tasks.items():
                arrays |= {"/".join((self.name, "loss", part, method, task)): value for method, value in methods.items()}
        arrays |= {"/".join((self.name, "rows", part)): np.array(count) for part, count in self.rows.items()}
        return arrays | {"/".join((self.name, "seconds", method)): np.array(value) for method, value in self.seconds.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> list[Results]:
        """All data sets that ``to_arrays`` gave the arrays of."""
        found: dict[str, Results] = {}
        for key, value in arrays.items():
            name, what, *path = key.split("/", 4)
            result = found.setdefault(name, cls(name, {}, {}, {}))
            if what == "loss":
                part, method, task = path
                result.losses.setdefault(part, {}).setdefault(task, {})[method] = value  # type: ignore[attr-defined]
            else:
                getattr(result, what)[path[0]] = value.item()
        return list(found.values())


def measure(name: str, recipe: Recipe, prepared: Prepared, seeds: int, skipped: Sequence[str] = ()) -> Results:
    """Fit every method but those skipped; those that draw nothing are fitted once."""
    names = [fitted.task.name for fitted in prepared.tasks]
    losses: dict[str, dict[str, dict[str, Losses]]] = {part: {name: {} for name in names} for part in PARTS}
    seconds = {method: 0.0 for method in METHODS if method not in skipped}

    def keep(method: str, task: str, runs: Sequence[Mapping[str, Losses]]) -> None:
        for part in PARTS:
            losses[part][task][method] = np.stack([run[part] for run in runs])

    for fitted in prepared.tasks:
        fits = (("constant", constant), (LINEAR, linear), (BOOSTING, boosted), (BOOSTING_BEST, best_boosted))
        for method, fit in fits:
            if method in skipped:
                continue
            began = time.process_time()
            predict = fit(fitted, prepared)
            seconds[method] += time.process_time() - began
            run = {part: scattered(_losses(predict, fitted, getattr(prepared, part)), fitted, prepared, part) for part in PARTS}
            keep(method, fitted.task.name, [run] * seeds)
    for method, groups in ((ALONE, [[name] for name in names]), (TOGETHER, [names])):
        for group in groups if method not in skipped else []:
            began = time.process_time()
            bundles = [train_bundle(recipe, prepared, tasks=group, seed=seed)[0] for seed in range(seeds)]
            seconds[method] += (time.process_time() - began) / seeds
            runs = [{part: row_losses(bundle, getattr(prepared, part).select(group)) for part in PARTS} for bundle in bundles]
            for fitted in (f for f in prepared.tasks if f.task.name in group):
                task = fitted.task.name
                keep(method, task, [{p: scattered(run[p][task], fitted, prepared, p) for p in PARTS} for run in runs])
    rows = {part: getattr(prepared, part).n_rows for part in ("training", *PARTS)}
    return Results(name, rows, losses, seconds)


def constant(fitted: FittedTask, data: Prepared) -> Predictor:
    """The best constant output."""
    return lambda part: torch.tensor(fitted.codec.start).expand(part.n_rows, -1)


def linear(fitted: FittedTask, data: Prepared) -> Predictor:
    """Ridge (its penalty by leave-one-out), logistic or Poisson regression on numbers and one-hot categories."""
    sizes = data.inputs[0].codec.cardinalities

    def columns(part: Dataset) -> NDArray[np.float64]:
        codes = part.inputs[0]["categories"]
        flags = [functional.one_hot(codes[:, i], size) for i, size in enumerate(sizes)]
        return torch.cat([part.inputs[0]["numbers"], *flags], 1).double().numpy()

    model = RidgeCV(np.logspace(-2, 4, 13))
    if fitted.codec.classes:
        model = LogisticRegression(max_iter=300)
    elif fitted.task.kind == "count":
        model = PoissonRegressor(alpha=1e-3, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(*_labeled(columns, data.training, fitted))
    return lambda part: outputs_of(model, fitted, columns(part))


def _labeled(
    columns: Callable[[Dataset], NDArray[np.float64]], part: Dataset, fitted: FittedTask
) -> tuple[NDArray[np.float64], NDArray[np.generic]]:
    rows = part.present[fitted.task.name].numpy()
    return columns(part)[rows], part.targets[fitted.task.name].numpy()[rows]


def _losses(predict: Predictor, fitted: FittedTask, part: Dataset) -> Losses:
    """The normalized loss of each labeled row."""
    rows, name = part.present[fitted.task.name], fitted.task.name
    losses: Losses = fitted.losses(predict(part)[rows], part.targets[name][rows]).double().numpy()
    return losses / (fitted.codec.null_loss or 1.0)


def scattered(values: Losses, fitted: FittedTask, data: Prepared, part: str) -> Losses:
    """One loss per row, nan where a row has no label of the task."""
    present = getattr(data, part).present[fitted.task.name].numpy()
    losses = np.full(len(present), np.nan)
    losses[present] = values
    return losses


def telling(results: Sequence[Results], part: str) -> list[list[Mapping[str, Losses]]]:
    """The losses by method of the tasks with something to predict in a part, by data set: other ratios mean little."""
    return [[m for m in result.losses[part].values() if np.nanmean(m["constant"]) >= TELLING] for result in results]


def ratio_interval(sets: Sequence[Sequence[Mapping[str, Losses]]], reference: str, seed: int = 0) -> tuple[float, float, float]:
    """The geometric mean over all tasks of loss(together) / loss(reference), with its 95 % bootstrap interval.

    Rows and seeds of every set are drawn with replacement, the same for all its tasks and for both methods.
    """
    draw = np.random.default_rng(seed)

    def mean_log(resample: bool) -> float:
        logs: list[float] = []
        for tasks in sets:
            n_seeds, n_rows = tasks[0][TOGETHER].shape if tasks else (1, 1)
            runs, rows = np.arange(n_seeds), np.arange(n_rows)
            if resample:
                runs, rows = draw.integers(n_seeds, size=n_seeds), draw.integers(n_rows, size=n_rows)
            for methods in tasks:
                ours, theirs = (float(np.nanmean(methods[m][np.ix_(runs, rows)])) for m in (TOGETHER, reference))
                logs.append(float(np.log(max(ours, SMALLEST) / max(theirs, SMALLEST))))
        return float(np.mean(logs))

    drawn = [mean_log(resample=True) for _ in range(N_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.exp(mean_log(resample=False))), float(np.exp(low)), float(np.exp(high))


def show(result: Results, parts: Sequence[str]) -> None:
    """Print the losses of a data set."""
    sizes = ", ".join(f"{result.rows[part]:,} {part}" for part in ("training", *parts))
    methods, references = list(result.seconds), [m for m in (BOOSTING, BOOSTING_BEST, ALONE) if m in result.seconds]
    print(f"\n{result.name}: {sizes} rows")
    headers = "   ".join(f"{f'to {reference}, %':<24}" for reference in references)
    print(f"{'task':<26} {'part':<10} " + " ".join(f"{m:>9}" for m in methods) + f"   {headers}")
    for task in result.losses[parts[0]]:
        for part in parts:
            found = result.losses[part][task]
            cells = " ".join(f"{np.nanmean(found[m]):9.4f}" for m in methods)
            changes = "   ".join(f"{change_text(compared(found, reference, task)):<24}" for reference in references)
            print(f"{task:<26} {part:<10} {cells}   {changes}".rstrip())
    print(f"{'CPU seconds per seed':<37} " + " ".join(f"{result.seconds[m]:9.1f}" for m in methods), flush=True)


def compared(found: Mapping[str, Losses], reference: str, task: str = "") -> TaskComparison:
    """Training together against another method, on the rows that have a label."""
    labeled = ~np.isnan(found[TOGETHER][0])
    return compare_losses(task, found[reference][:, labeled], found[TOGETHER][:, labeled])


def change_text(change: TaskComparison) -> str:
    """A change in percent with its interval."""
    return f"{change.change:+.1f} [{change.change_low:+.1f}, {change.change_high:+.1f}]"


def summarize(results: Sequence[Results], parts: Sequence[str]) -> None:
    """Print the geometric means and on how many tasks training together is no worse."""
    print("\nLoss ratio of together, geometric mean over all tasks; bootstrap 95 % interval over rows and seeds")
    for part in parts:
        sets = telling(results, part)
        pairs = [methods for tasks in sets for methods in tasks]
        for reference in [m for m in METHODS[1:-1] if m in results[0].seconds]:
            ratio, low, high = ratio_interval(sets, reference)
            changes = [compared(methods, reference) for methods in pairs]
            lower, worse = sum(c.change < 0 for c in changes), sum(c.verdict == "hurt" for c in changes)
            counts = f"lower on {lower} of {len(pairs)} tasks, above the paired 95 % interval on {worse}"
            print(f"{part:<10} to {reference:<9} {ratio:.3f} [{low:.3f}, {high:.3f}]   {counts}")
        n_tasks = sum(len(result.losses[part]) for result in results)
        if n_tasks > len(pairs):
            print(
                f"{part:<10} {n_tasks - len(pairs)} tasks left out: the constant loses under {TELLING:.0%} of its training loss"
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=None, help=f"of {','.join(SETS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_EPOCHS} epochs, the small sets")
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test rows")
    parser.add_argument("--skip", action="append", default=[], choices=METHODS[1:-1], help="leave a method out")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="FIELD=VALUE", help="change the recipes")
    parser.add_argument("--save", metavar="FILE", help="keep the losses in a .npz file")
    parser.add_argument("--saved", metavar="FILE,...", help="fit nothing: show what was kept")
    given = parser.parse_args()
    parts = PARTS[:1] if given.validation_only else PARTS
    if given.saved:
        results = [result for path in given.saved.split(",") for result in Results.from_arrays(np.load(path))]
        for result in results:
            show(result, parts)
        summarize(results, parts)
        return
    chosen = given.sets.split(",") if given.sets else QUICK_SETS if given.quick else tuple(SETS)
    if strangers := [name for name in chosen if name not in SETS]:
        parser.error(f"no set {strangers[0]!r}: give some of {', '.join(SETS)}")
    changes = [*([f"trainer.epochs={QUICK_EPOCHS}"] if given.quick else []), *given.changes]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; changes: {', '.join(changes) or 'none'}")
    results = []
    for name in chosen:
        if not (ROOT / name).is_dir():
            print(f"\n{name}: not in {ROOT}; POLYTASK_DATA names the folder that holds it")
            continue
        for title, make in SETS[name].items():
            recipe = with_changes(make(), changes)
            prepared = prepare(recipe)
            results.append(measure(title, recipe, prepared, 1 if given.quick else given.seeds, given.skip))
            show(results[-1], parts)
            if given.save:
                np.savez(given.save, **{key: value for result in results for key, value in result.to_arrays().items()})
    if results:
        summarize(results, parts)


if __name__ == "__main__":
    main()

"""Every way to share a network on real tables, at equal parameter counts: scores, Delta-m, parameters, FLOPs and seconds.

Run: python -m benchmarks.sharing [--sets kc_house,adult] [--schemes hard,mmoe] [--seeds 3] [--keep FILE] [--quick]

The data are found through POLYTASK_DATA, else in ../shared/data. The encoder is `table`; its width is chosen for each scheme so
that the whole network has as many parameters as `hard` at ``--width``, as near as a width in steps of four allows: a scheme
with a stage for each task has narrower ones. Rows, steps, optimizer and early stopping are the same for all, nobody was tuned,
and each task answers with the weights of its own best epoch. A loss is in units of the best constant's. Delta-m is the change
of the metrics against `separate`, whose networks have as many parameters together, by both conventions. Whether a difference is
more than chance is what `polytask compare` asks.

With --keep every training is written to a file as soon as it is there, and what the file has is not done again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._trainings import Training, Trainings
from benchmarks.tables import ROOT, SETS, with_changes
from polytask.component import Component
from polytask.encoders import Table
from polytask.evaluation.costs import flops_per_row
from polytask.evaluation.delta_m import DeltaM, delta_m
from polytask.fitted import FittedTask
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import Prepared, prepare
from polytask.recipe import Recipe
from polytask.sharing import Sharing

WIDTH, STEP, WIDEST = 128, 4, 1024
STEPS, QUICK_STEPS = 600, 20
BATCH = 256
BASELINE = "separate"
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "hard": [{}, {"stages": 1}],
    "adapters": [{"form": "residual"}, {"form": "lora"}],
    "conditioned": [{"by": "film"}, {"by": "normalization"}],
    "soft": [{"penalty": "l2"}, {"penalty": "trace_norm"}, {"penalty": "relationship"}],
    "shared_private": [{}, {"adversarial": 0.1, "orthogonal": 0.0}],
}


@dataclass(frozen=True)
class Scheme:
    """A scheme with the network that has the parameters asked for.

    Attributes:
        name: For the table.
        sharing: The scheme.
        encoder: Of the width found.
        parameters: That the network has.
        flops: Of the answers of all tasks for a row.
    """

    name: str
    sharing: Sharing
    encoder: Table
    parameters: int
    flops: int

    @property
    def parts(self) -> dict[str, Component]:
        """What takes the place of the recipe's own parts."""
        return {"sharing": self.sharing, "encoder": self.encoder}


def asked(kinds: Sequence[str], tasks: Sequence[str]) -> Iterator[tuple[str, Sharing]]:
    """A scheme of each kind, and of each of its VARIANTS; a tree parts the tasks into halves after the first stage."""
    halves = [list(tasks[: len(tasks) // 2]), list(tasks[len(tasks) // 2 :])]
    for kind in kinds:
        for fields in [{"branches": {1: halves}}] if kind == "tree" else VARIANTS.get(kind, [{}]):
            words = [] if kind == "tree" else [f"{name}={value}" for name, value in fields.items()]
            yield " ".join([kind, *words]), Sharing.coerce({"kind": kind, **fields})


def network(recipe: Recipe, prepared: Prepared, sharing: Sharing, width: int) -> MultiTaskModel:
    """The untrained network of a scheme at a width."""
    codecs = [part.codec for part in prepared.inputs]
    return build_model(recipe.encoder.model_copy(update={"width": width}), sharing, recipe.head, codecs, prepared.tasks)


def size(model: MultiTaskModel) -> int:
    """The parameters that are trained."""
    return sum(math.prod(p.shape) for p in model.parameters())


def nearest_width(size_at: Callable[[int], int], target: int) -> int:
    """The width, a multiple of STEP, at which a network has the number of parameters nearest to ``target``."""
    low, high = 1, WIDEST // STEP
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size_at(middle * STEP) <= target else (low, middle)
    return min((low * STEP, high * STEP), key=lambda width: abs(size_at(width) - target))


def schemes(recipe: Recipe, prepared: Prepared, kinds: Sequence[str], width: int) -> Iterator[Scheme]:
    """The schemes, each with as many parameters as ``hard`` at a width."""
    target = size(network(recipe, prepared, Sharing.coerce("hard"), width))
    for name, sharing in asked(kinds, [fitted.task.name for fitted in prepared.tasks]):
        found = nearest_width(lambda width, s=sharing: size(network(recipe, prepared, s, width)), target)  # type: ignore[misc]
        model = network(recipe, prepared, sharing, found)
        encoder = recipe.encoder.model_copy(update={"width": found})
        assert isinstance(encoder, Table)
        yield Scheme(name, sharing, encoder, size(model), flops_per_row(model, prepared.training))


def show(name: str, found: Sequence[tuple[Scheme, Sequence[Training]]], tasks: Sequence[FittedTask]) -> None:
    """Print a table: the baseline first, then by the mean loss."""
    names = [fitted.task.name for fitted in tasks]
    losses = {scheme.name: _mean([training.losses for training in runs]) for scheme, runs in found}
    means = {scheme: float(np.mean(list(values.values()))) for scheme, values in losses.items()}
    gains = _gains(found, tasks)
    headers = ["scheme", *names, "mean", "Delta-m metrics", "Delta-m tasks", "width", "parameters", "FLOPs", "s"]
    print(f"\n{name}\n\n| {' | '.join(headers)} |\n|---|{'---:|' * (len(headers) - 1)}")
    for scheme, runs in sorted(found, key=lambda pair: (pair[0].name != BASELINE, means[pair[0].name])):
        gain = gains.get(scheme.name)
        cells = [scheme.name, *(f"{losses[scheme.name][task]:.3f}" for task in names), f"**{means[scheme.name]:.3f}**"]
        cells += ["", ""] if gain is None else [f"{gain.by_metric:+.1f} %", f"{gain.by_task:+.1f} %"]
        cells += [str(scheme.encoder.width), f"{scheme.parameters:,}", f"{scheme.flops:,}"]
        cells.append(f"{np.mean([training.seconds for training in runs]):.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def _gains(found: Sequence[tuple[Scheme, Sequence[Training]]], tasks: Sequence[FittedTask]) -> dict[str, DeltaM]:
    """Delta-m of each scheme against the baseline, over the metrics whose change in percent means something."""
    better: dict[str, dict[str, bool]] = {}
    for fitted in tasks:
        scorers = fitted.task.chosen_scorers(fitted.codec)
        if kept := {name: scorer.higher_is_better for name, scorer in scorers.items() if scorer.is_ratio}:
            better[fitted.task.name] = kept
    means = {
        scheme.name: {
            task: _mean([{name: training.metrics[task][name] for name in names} for training in runs])
            for task, names in better.items()
        }
        for scheme, runs in found
    }
    if BASELINE not in means or not better:
        return {}
    return {name: delta_m(mean, means[BASELINE], better) for name, mean in means.items() if name != BASELINE}


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in values])) for key in values[0]}


def main() -> None:
    """Train, then print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {','.join(SETS)}")
    parser.add_argument("--schemes", help="kinds of sharing; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=WIDTH, help="of the hard sharing that says how many parameters there are")
    parser.add_argument("--steps", type=int, default=STEPS, help="the most of a training")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="a file of JSON lines for the trainings")
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_STEPS} steps")
    given = parser.parse_args()
    names, kinds = given.sets.split(","), given.schemes.split(",") if given.schemes else Sharing.kinds()
    for words, known in ((names, SETS), (kinds, Sharing.kinds())):
        if strangers := [word for word in words if word not in known]:
            parser.error(f"no {strangers[0]!r}: give some of {', '.join(known)}")
    torch.set_num_threads(1)
    seeds, steps = (1, QUICK_STEPS) if given.quick else (given.seeds, given.steps)
    print(f"torch {torch.__version__}, one thread, {seeds} seeds, at most {steps} steps of at most {BATCH} rows")
    trainings = Trainings(given.keep)
    for name in names:
        if not (ROOT / name).is_dir():
            print(f"\n{name}: not in {ROOT}; POLYTASK_DATA names the folder that holds it")
            continue
        for title, make in SETS[name].items():
            recipe, prepared, changes = with_budget(make(), steps)
            found = [
                (scheme, trainings(title, recipe, prepared, changes, scheme.parts, seeds))
                for scheme in schemes(recipe, prepared, kinds, given.width)
            ]
            show(title, found, prepared.tasks)


def with_budget(recipe: Recipe, steps: int) -> tuple[Recipe, Prepared, list[str]]:
    """A recipe with the encoder ``table`` and so many steps, its data, and what was changed."""
    prepared = prepare(recipe)
    rows = prepared.training.n_rows
    batch = min(BATCH, recipe.trainer.rows_per_step(rows))
    epochs = math.ceil(steps / math.ceil(rows / batch))
    changes = ["encoder={kind: table}", f"trainer.batch_size={batch}", f"trainer.epochs={epochs}", "trainer.device=cpu"]
    return with_changes(recipe, changes), prepared, changes


if __name__ == "__main__":
    main()

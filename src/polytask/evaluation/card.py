"""The model card: what a stranger should know of a trained network, in Markdown beside its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polytask.bundle import Bundle
from polytask.errors import counted, listed
from polytask.fitted import FittedTask
from polytask.scores import Scores

USE = """`polytask predict RUN new.csv --out answers.csv`, or in Python `polytask.load(RUN).predict(frame)`. The folder holds
plain values and weights only: loading it runs no code from it."""


def model_card(
    bundle: Bundle, scores: Scores, record: Mapping[str, Any], tasks: Sequence[str] | None = None, use: str = USE
) -> str:
    """Tasks, inputs, scores, training and use, as Markdown.

    Args:
        bundle: The network.
        scores: Of its tasks.
        record: Of its training.
        tasks: Those to tell of; None for all.
        use: How it is used.
    """
    told = [fitted for name, fitted in bundle.tasks.items() if tasks is None or name in tasks]
    lines = "\n".join(map(_task_line, told))
    inputs = "\n".join(
        f"- {_origin(part.sources)}: {', '.join(f'`{name}` ({kind})' for name, kind in part.codec.kinds.items())}"
        for part in bundle.manifest.inputs
    )
    rows, what = record["rows"], f"{_networks(bundle)} for {counted(len(told), 'task')}"
    notes = "".join(f"- {note}\n" for note in record["notes"]) or "- none\n"
    papers = "\n".join(f"- {kind}: {paper}" for kind, paper in _papers(bundle).items()) or "- none"
    return f"""# Model card

{what}, trained by polytask {record["polytask"]} (torch {record["torch"]}).

## Tasks
{lines}

## Inputs
{inputs}

## Scores on the {record["scored_on"]} rows
```
{scores}
```

## Training
{rows["training"]} training, {rows["validation"]} validation and {rows["test"]} test rows; {record["parameters"]:,} parameters;
{_best(record["best_epochs"])}; {record["seconds"]:.0f} seconds; seed {bundle.manifest.seed}.

Notes:
{notes}
Methods:
{papers}

## Use
{use}
"""


def _networks(bundle: Bundle) -> str:
    networks = bundle.manifest.networks
    kinds = dict.fromkeys(one.sharing.kind for one in networks if one.sharing is not None)
    if len(kinds) > 1:
        return f"{counted(len(networks), 'network')}, with the sharing {listed(kinds)},"
    return f"One network with the weights of {len(networks)} epochs," if len(networks) > 1 else "One network"


def _best(epochs: Mapping[str, int]) -> str:
    """Which epochs the weights are of."""
    if len(set(epochs.values())) <= 1:
        return f"best epoch {next(iter(epochs.values()), 'not known')}"
    return "best epochs: " + ", ".join(f"{task} {epoch}" for task, epoch in epochs.items())


def _task_line(fitted: FittedTask) -> str:
    task, codec = fitted.task, fitted.codec
    if codec.image is not None:
        what = "a grey image" if codec.image.channels == 1 else "an image in color"
    elif codec.classes or codec.labels:
        what = f"classes {listed(map(repr, codec.classes or codec.labels), 20)}"
    else:
        what = f"{codec.transform}, center {codec.center:.4g}, scale {codec.scale:.4g}"
    if codec.space:
        what += f", at each of {' x '.join(map(str, codec.space))} pixels"
    seen = "" if task.seen_where is None else f"; seen where `{task.seen_where}` is yes, and answered as if it were"
    read = f"; its head reads {listed(f'`{name}`' for name in task.depends_on)}" if task.depends_on else ""
    labels = f"{codec.n_labels} training labels"
    column = f", column `{listed(task.label_columns)}`" if task.label_columns else ""
    return f"- **{task.name}** ({task.kind}{column}): {labels}; {what}{read}{seen}"


def _origin(sources: Iterable[str]) -> str:
    return f"rows of {listed(sources)}"


def _papers(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    networks = [part for one in manifest.networks for part in (one.encoder, one.sharing) if part is not None]
    parts = [*networks, manifest.head, *(fitted.task for fitted in bundle.tasks.values())]
    return {part.kind: part.paper for part in parts if part.paper}

"""Whether an exported network says what ``predict`` says: of rows of the training's sources, and of made-up rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.bundle import Bundle, asked_for, views_of
from polytask.cells import CategoryFeature, ColumnKind
from polytask.columns import InputCodec
from polytask.errors import PolytaskError
from polytask.export.serving import ExportedModel
from polytask.model import outputs_on
from polytask.source import Source

TOLERANCE = 1e-5
N_ROWS, N_ALONE = 1000, 8
SHARES = ("probability", "joint")
NEVER_SEEN = "never seen in training"
Views = Mapping[str, NDArray[Any]]


@dataclass
class Exported:
    """An exported network that was asked about the same rows as ``predict``, and how far they agree.

    Attributes:
        rows: How many rows were asked about, by where they are from.
        differences: Per task the largest difference: of a probability as it is; of another number relative to its own size or
            to the root mean square of its column, whichever is larger.
        ties: Labels that differ where two are equally probable but for the tolerance.
    """

    rows: dict[str, int] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    ties: int = 0

    def __str__(self) -> str:
        asked = " and ".join(f"{n:,} {where}" for where, n in self.rows.items())
        ties = f"; {self.ties} labels differ at ties" if self.ties else ""
        return (
            f"agrees with predict on {asked}, alone and {N_ROWS:,} at once: "
            f"at most {max(self.differences.values()):.1e} of a number's size apart{ties}"
        )


def check_agreement(exported: ExportedModel, bundle: Bundle, sources: Sequence[Source]) -> Exported:
    """Ask both about the same rows, with missing cells and unseen categories among them, in batches and one by one.

    Raises:
        PolytaskError: They differ by more than 1e-5, or in a label that is no tie.
    """
    found = Exported()
    for index, part in enumerate(exported.metadata.sets):
        tables = [("made-up rows (some cells missing or unseen in training)", made_up_rows(part.codec, N_ROWS))]
        tables += [(f"rows of {label}", table) for label, table in _given_rows(sources, part.codec, tuple(part.sources))]
        for where, table in tables:
            _compare(exported, bundle, index, table, found)
            found.rows[where] = found.rows.get(where, 0) + len(table)
    return found


def made_up_rows(codec: InputCodec, n_rows: int, seed: int = 0) -> pa.Table:
    """Rows of no source with the columns of a codec, and cells that are missing, unseen in training, or far from it."""
    draw = np.random.default_rng(seed)
    return pa.table({name: _made_up_cells(codec, name, codec.kinds[name], n_rows, draw) for name in codec.names})


def _made_up_cells(codec: InputCodec, name: str, kind: ColumnKind, n_rows: int, draw: np.random.Generator) -> pa.Array:
    missing = draw.random(n_rows) < 0.1
    if kind == "image":
        *frames, channels, height, width = next(item.shape for item in codec.image_features if item.column == name)
        pixels = draw.integers(0, 256, (n_rows, *frames, height, width, channels), dtype=np.uint8)
        return pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    if kind == "category":
        feature = next(item for item in codec.category_features if item.column == name)
        return _made_up_texts(feature, n_rows, missing, draw)
    if kind == "boolean":
        return pa.array(draw.random(n_rows) < 0.5, mask=missing)
    scaled = [item for item in codec.number_features if item.column == name and item.part == "value"]
    mean, deviation = (scaled[0].mean, scaled[0].deviation) if scaled else (0.0, 1.0)
    far = np.where(draw.random(n_rows) < 0.05, 100.0, 1.0)
    values = mean + deviation * far * draw.normal(size=n_rows)
    if kind == "date":
        seconds = np.clip(values, -2e9, 4e9)  # from 1906 to 2096
        return pa.array((seconds * 1e6).astype(np.int64), mask=missing).cast(pa.timestamp("us"))
    return pa.array(values, mask=missing)


def _made_up_texts(feature: CategoryFeature, n_rows: int, missing: NDArray[np.bool_], draw: np.random.Generator) -> pa.Array:
    known = [*feature.values, NEVER_SEEN]
    return pa.array([known[i] for i in draw.integers(0, len(known), n_rows)], pa.string(), mask=missing)


def _given_rows(sources: Sequence[Source], codec: InputCodec, labels: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Rows of the sources that have these columns, as far as they can still be read: of the test part where there is one."""
    for source in sources:
        if source.label not in labels:
            continue
        try:
            datum = getattr(source, source.datum, None) if source.test is None else source.test
            first = next(iter(source.read_in_pieces(datum, set(codec.names)) if datum is not None else [source.read()]))
            table = first.take(np.unique(np.linspace(0, len(first) - 1, min(N_ROWS, len(first))).astype(np.int64)))
            codec.arrays(table)
        except (PolytaskError, OSError):  # the data are gone or others by now: the made-up rows remain
            continue
        yield source.label, table.select(codec.names)


def _compare(exported: ExportedModel, bundle: Bundle, index: int, table: pa.Table, found: Exported) -> None:
    """Compare what both say of a table's rows, and of its first rows alone."""
    graph = exported.metadata.graphs[index]
    tasks = [task for task in exported.metadata.tasks if task in graph.rows.tasks]
    place = next(i for i, part in enumerate(bundle.manifest.inputs) if part.codec == graph.rows.codec)
    inputs = exported.inputs(table, index)
    expected = _views(bundle, place, table, tasks)
    _compare_views(exported.outputs(inputs, index), expected, bundle, found)
    for row in islice(range(len(table)), N_ALONE):
        alone = exported.outputs({name: array[row : row + 1] for name, array in inputs.items()}, index)
        _compare_views(alone, {name: view[row : row + 1] for name, view in expected.items()}, bundle, found, expected)


def _views(bundle: Bundle, index: int, table: pa.Table, tasks: Sequence[str]) -> dict[str, NDArray[Any]]:
    data = bundle.dataset(table, index)
    views = views_of(bundle.tasks, outputs_on(bundle.model, data, asked_for(bundle.tasks, tasks)))
    return {f"{task}:{name}": view.numpy() for task, each in views.items() for name, view in each.items()}


def _compare_views(outputs: Views, expected: Views, bundle: Bundle, found: Exported, whole: Views | None = None) -> None:
    """Note how far outputs are from what is expected.

    Raises:
        PolytaskError: They are too far.
    """
    for name, output in outputs.items():
        task, _, view = name.rpartition(":")
        right = expected[name]
        if output.shape != right.shape:
            raise _disagreement(task, f"{view} of shape {output.shape}, where predict has {right.shape}")
        if right.dtype.kind in "iub":
            probability = expected.get(f"{task}:probability")
            apart = output != right
            tied = apart & _near_tie(output, right, probability, bundle.tasks[task].codec.thresholds)
            found.ties += int(tied.sum())
            if (apart & ~tied).any():
                raise _disagreement(task, f"another {view} in {int((apart & ~tied).sum())} of {len(right)} rows")
            continue
        difference = _difference(output, right, (whole or expected)[name], is_share=view in SHARES)
        found.differences[task] = max(found.differences.get(task, 0.0), difference)
        if not difference <= TOLERANCE:
            raise _disagreement(task, f"a {view} is off by {difference:.1e}")


def _difference(output: NDArray[Any], right: NDArray[Any], column: NDArray[Any], is_share: bool) -> float:
    if not np.array_equal(np.isfinite(output), np.isfinite(right)):
        return float("inf")
    size = 1.0 if is_share else np.maximum(np.abs(right), np.sqrt(np.mean(np.square(column))))
    apart = np.abs(output - right)
    return float(np.max(np.divide(apart, size, out=np.zeros_like(apart), where=apart > 0), initial=0.0))


def _near_tie(
    output: NDArray[Any], right: NDArray[Any], probability: NDArray[Any] | None, thresholds: Sequence[float]
) -> NDArray[np.bool_]:
    """Where two labels are equally probable but for the tolerance, or a probability is at its threshold."""
    if probability is None:
        return np.zeros(right.shape, bool)
    if probability.ndim == right.ndim + 1:
        ours, theirs = (np.take_along_axis(probability, codes[:, None], 1) for codes in (output, right))
        return np.asarray(np.abs(ours - theirs) <= 2 * TOLERANCE).squeeze(1)
    return np.asarray(np.abs(probability - np.array(thresholds)) <= TOLERANCE)


def _disagreement(task: str, found: str) -> PolytaskError:
    what = "the exported network does not say what predict says, so nothing was written"
    mend = "Leave the task out with --tasks, or export to the other target."
    return PolytaskError(what, where=f"task {task!r}", found=found, mend=mend)

"""Rows of the data as pictures: the best, the median and the worst, beside what is true and what was answered."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray

from polytask.batch import Dataset, n_rows
from polytask.bundle import Bundle
from polytask.fitting import labeled_outputs
from polytask.images import png
from polytask.report.blocks import Block, Card, Gallery, Panel, Scale
from polytask.report.drawing import compact
from polytask.report.evidence import Evidence, Floats, Judged, marked
from polytask.task import NO_LABEL
from polytask.tasks._classes import class_texts

Pixels = NDArray[np.uint8]
Words = Callable[[int], Sequence[str]]

SHOWN = {"Best": 2, "Median": 2, "Worst": 4}
SHOWN_SMALL = {"Best": 4, "Median": 4, "Worst": 8}
LARGEST, FINE = 192, 96  # pixels of a side: more are left out; so many are too small to be told apart
# Okabe and Ito 2008, which are told apart by the color-blind; then the same mixed with white, and with black.
FIRST, CLASSES = "#000000", ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
WRONG = "#d55e00"
MAX_LEGEND, MAX_FRAMES = 22, 4
NUMBERS, APART = "viridis", "magma"


def gallery(evidence: Evidence, judged: Judged, words: Words) -> Iterator[Block]:
    """Some rows of a task whose inputs are images, by their loss.

    Args:
        evidence: The run.
        judged: What the task was answered.
        words: What to say of a row, by its place among those with a label.
    """
    spatial = judged.fitted.task.spatial
    forms = [part.codec.image_features for part in evidence.run.bundle.manifest.inputs]
    one_each = spatial is None and all(sum(form.frames for form in each) < 2 for each in forms)
    parts = ranked(judged.losses, SHOWN_SMALL if one_each else SHOWN)
    rows = np.unique(np.concatenate([*parts.values()])) if parts else np.zeros(0, np.intp)
    if not len(rows):
        return
    data = evidence.data.select([judged.name])
    data = data.where(marked(judged.index[rows], data.n_rows))
    images = images_of(evidence.run.bundle, data)
    if not any(images):
        return
    names = {int(row): evidence.row_title(int(judged.index[row])) for row in rows}
    said = () if spatial is None else _said(evidence.run.bundle, judged, data)
    panels, legend, scales = _DRAWN[spatial](judged, images, *said)
    at = {int(row): place for place, row in enumerate(rows)}
    cards = [
        (title, [Card(names[row], words(row), [each.panel(names[row]) for each in panels[at[row]]]) for row in chosen])
        for title, chosen in ((title, chosen.tolist()) for title, chosen in parts.items())
    ]
    caption = f"The rows with the least, a median and the largest loss. {_CAPTIONS[spatial]}"
    yield Gallery("Best, median and worst rows", cards, caption, legend, scales)


@dataclass(frozen=True)
class Shown:
    """Pixels with what they are: grey ``[H, W]``, colors ``[H, W, 3]``, or with opacity ``[H, W, 4]``."""

    caption: str
    pixels: Pixels

    def panel(self, row: str) -> Panel:
        """The picture of a row of that name."""
        step = -(-max(self.pixels.shape[:2]) // LARGEST)
        file = base64.b64encode(png(self.pixels[::step, ::step])).decode()
        fine = max(self.pixels.shape[:2]) > FINE
        return Panel(self.caption, f"data:image/png;base64,{file}", f"{self.caption}, {row}", fine)


Drawn = tuple[list[list[Shown]], list[tuple[str, str]], list[Scale]]
Images = Sequence[Sequence[tuple[str, Pixels]]]


def ranked(losses: Floats, counts: Mapping[str, int]) -> dict[str, NDArray[np.intp]]:
    """The rows with the least, the median and the largest losses, in this order, each once: where they are few the worst first.

    Example:
        >>> shown = ranked(np.array([0.5, 0.1, 0.9, 0.3]), {"Best": 1, "Median": 1, "Worst": 1})
        >>> {name: rows.tolist() for name, rows in shown.items()}
        {'Best': [1], 'Median': [3], 'Worst': [2]}
    """
    order = np.argsort(np.nan_to_num(losses, nan=np.inf), kind="stable")
    n_worst = min(counts["Worst"], max(1, len(order) - 2))
    left, worst = order[: len(order) - n_worst], order[len(order) - n_worst :][::-1]
    n_best = min(counts["Best"], -(-len(left) // 2))
    best, left = left[:n_best], left[n_best:]
    start = max(0, (len(order) - counts["Median"]) // 2 - n_best)
    middle = left[min(start, max(0, len(left) - counts["Median"])) :][: counts["Median"]]
    return {name: rows for name, rows in (("Best", best), ("Median", middle), ("Worst", worst)) if len(rows)}


def images_of(bundle: Bundle, data: Dataset) -> list[list[tuple[str, Pixels]]]:
    """The input images of every row, each with its column, as they lie in memory; of a clip some of its frames."""
    found: list[list[tuple[str, Pixels]]] = []
    for part, inputs in zip(bundle.manifest.inputs, data.inputs, strict=False):
        count = n_rows(inputs)
        every = torch.arange(count)
        forms = [form for form in part.codec.image_features if form.key in inputs]
        columns = {form.column: inputs[form.key].index_select(0, every).cpu().numpy() for form in forms}
        found += [[seen for name, images in columns.items() for seen in as_seen(name, images[row])] for row in range(count)]
    return found


def as_seen(name: str, image: Pixels) -> Iterator[tuple[str, Pixels]]:
    """An image ``[C, H, W]``, or some frames of a clip ``[F, C, H, W]``, as pictures have them, with words for each.

    Example:
        >>> [(words, frame.shape) for words, frame in as_seen("clip", np.zeros((6, 3, 8, 9), np.uint8))][2:]
        [('clip, frame 4', (8, 9, 3)), ('clip, frame 6', (8, 9, 3))]
    """
    if image.ndim == 3:
        yield name, image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
        return
    for number in np.unique(np.linspace(0, len(image) - 1, MAX_FRAMES).astype(int)).tolist():
        for _, frame in as_seen(name, image[number]):
            yield f"{name}, frame {number + 1}", frame


def _said(bundle: Bundle, judged: Judged, data: Dataset) -> tuple[Mapping[str, NDArray[Any]], NDArray[Any]]:
    """What is said of every pixel of these rows, and what is true."""
    views, truth = [], []
    for _, output, target in labeled_outputs(bundle, data, [judged.name]):
        with torch.inference_mode():
            views.append({name: view.numpy() for name, view in judged.fitted.views(output).items()})
            truth.append(judged.fitted.task.truth(target, judged.fitted.codec).numpy())
    return {name: np.concatenate([part[name] for part in views]) for name in views[0]}, np.concatenate(truth)


def _whole(_: Judged, images: Images) -> Drawn:
    return [[Shown(column, pixels) for column, pixels in row] for row in images], [], []


def _codes(judged: Judged, images: Images, views: Mapping[str, NDArray[Any]], truth: NDArray[Any]) -> Drawn:
    names, label = class_texts(judged.fitted.codec), views["label"].astype(int)
    colors = np.array([[*_rgb(color_of_class(code)), 255] for code in range(len(names))] + [[0, 0, 0, 0]], np.uint8)
    there = truth != NO_LABEL
    true = np.where(there, truth, len(names)).astype(int)
    wrong = np.where((there & (label != true))[..., None], np.array([*_rgb(WRONG), 255]), 0).astype(np.uint8)
    panels = [
        [Shown("image", image[0][1]), Shown("true", colors[one]), Shown("answered", colors[two]), Shown("difference", apart)]
        for image, one, two, apart in zip(images, true, label, wrong, strict=True)
    ]
    seen = [code for code in range(len(names)) if (label == code).any() or (true == code).any()]
    legend = [(color_of_class(code), names[code]) for code in seen[:MAX_LEGEND]]
    if len(seen) > MAX_LEGEND:
        legend.append(("", f"{len(seen) - MAX_LEGEND} more classes"))
    return panels, [*legend, *([] if there.all() else [("", "no label")])], []


def _numbers(_: Judged, images: Images, views: Mapping[str, NDArray[Any]], truth: NDArray[Any]) -> Drawn:
    value, apart = views["value"].astype(float), np.abs(views["value"] - truth).astype(float)
    low, high, most = float(np.nanmin(truth)), float(np.nanmax(truth)), float(np.nanmax(apart))
    panels = [
        [
            Shown("image", image[0][1]),
            Shown("true", shaded(one, low, high, NUMBERS)),
            Shown("answered", shaded(two, low, high, NUMBERS)),
            Shown("difference", shaded(far, 0.0, most, APART)),
        ]
        for image, one, two, far in zip(images, truth, value, apart, strict=True)
    ]
    legend = [] if np.isfinite(truth).all() else [("", "no label")]
    return panels, legend, [_scale("true and answered", NUMBERS, low, high), _scale("difference", APART, 0.0, most)]


def _image(_: Judged, __: Images, views: Mapping[str, NDArray[Any]], truth: NDArray[Any]) -> Drawn:
    value, apart = np.rint(views["value"]).astype(np.uint8), np.abs(views["value"] - truth).astype(float) / 255
    apart = apart.mean(-1) if apart.ndim == 4 else apart
    most = float(apart.max())
    panels = [
        [Shown("image", one), Shown("answered", two), Shown("difference", shaded(far, 0.0, most, APART))]
        for one, two, far in zip(truth, value, apart, strict=True)
    ]
    return panels, [], [_scale("difference of brightness, from 0 to 1", APART, 0.0, most)]


_DRAWN: Mapping[str | None, Callable[..., Drawn]] = {None: _whole, "codes": _codes, "numbers": _numbers, "image": _image}


_CAPTIONS: Mapping[str | None, str] = {
    None: "Images are as the network sees them.",
    "codes": "The image as the network sees it, what is true, what was answered, and the pixels where the two differ.",
    "numbers": "The image as the network sees it, what is true, what was answered, and how far the two are apart.",
    "image": "The image as the network sees it, what was answered, and how far the two are apart.",
}


def shaded(values: Floats, low: float, high: float, colors: str) -> Pixels:
    """Numbers as colors ``[H, W, 4]`` between two ends; nothing is drawn where there is none.

    Example:
        >>> shaded(np.array([[0.0, np.nan]]), 0.0, 1.0, "viridis").tolist()
        [[[68, 1, 84, 255], [0, 0, 0, 0]]]
    """
    table = mpl.colormaps[colors]
    drawn = np.asarray(table((values - low) / ((high - low) or 1.0), bytes=True), np.uint8)
    return np.where(np.isfinite(values)[..., None], drawn, 0).astype(np.uint8)


def _scale(title: str, colors: str, low: float, high: float) -> Scale:
    table = mpl.colormaps[colors]
    stops = [mpl.colors.to_hex(table(share)) for share in np.linspace(0, 1, 9)]
    return Scale(title, stops, *(compact(float(f"{end:.3g}")) for end in (low, high)))


def color_of_class(code: int) -> str:
    """The color of a class.

    Example:
        >>> color_of_class(0), color_of_class(1), color_of_class(8), color_of_class(15)
        ('#000000', '#e69f00', '#f2cf80', '#735000')
    """
    if code == 0:
        return FIRST
    part, place = divmod(code - 1, len(CLASSES))
    other = {1: 255.0, 2: 0.0}.get(part % 3)
    mixed = [value if other is None else (value + other) / 2 for value in _rgb(CLASSES[place])]
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue

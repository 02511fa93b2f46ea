"""Answers of tasks with one at every pixel, by their sums: overlap and confusion of classes, numbers against the truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polytask.report.answers import confusion, numbers
from polytask.report.blocks import Block, Mark, Strips
from polytask.report.evidence import Floats, Judged
from polytask.report.words import percent, told
from polytask.tasks._classes import class_texts

N_RESAMPLES = 500
MAX_CLASSES = 40


def of_pixels(judged: Judged) -> Iterator[Block]:
    """By what a task's statistics are: how often pixels of each class are answered as each, or numbers."""
    sums, n_classes = judged.views["statistics"], len(judged.fitted.codec.classes)
    if judged.fitted.task.spatial == "codes" and sums.shape[1] == n_classes**2:
        names = class_texts(judged.fitted.codec)
        weights = np.ones(len(sums)) if judged.weights is None else judged.weights
        yield confusion("Confusion of pixels", names, (weights @ sums).reshape(n_classes, n_classes))
        yield _overlaps(names, sums, weights)
    if judged.pixels is not None and len(judged.pixels[0]):
        yield from numbers(judged, *judged.pixels, thing="pixel")


def _overlaps(names: list[str], sums: Floats, weights: Floats) -> Block:
    """The intersection over union of every class, with a bootstrap interval over rows."""
    n_rows, k = len(sums), len(names)
    drawn = np.random.default_rng(0).multinomial(n_rows, np.full(n_rows, 1 / n_rows), N_RESAMPLES) * weights
    found, resampled = _iou((weights @ sums).reshape(k, k)), _iou((drawn @ sums).reshape(-1, k, k))
    shares = (weights @ sums).reshape(k, k).sum(1) / max(float(weights @ sums.sum(1)), 1e-12)
    order = np.argsort(-shares, kind="stable")[:MAX_CLASSES]
    marks = []
    for code in sorted(order.tolist()):
        known = resampled[:, code][np.isfinite(resampled[:, code])]
        low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (None, None)
        value = float(found[code]) if np.isfinite(found[code]) else None
        width = high - low if low is not None and high is not None else float("nan")
        texts = (percent(float(shares[code]), 1), "-" if value is None else told(value, width))
        marks.append(Mark(names[code], texts, value, low, high))
    left = f" The {len(names) - len(order)} classes with fewest pixels are left out." if len(order) < len(names) else ""
    caption = (
        "Of the pixels that are of a class or are answered so, the share that is both (intersection over union), with 95 % "
        f"intervals over rows.{left}"
    )
    return Strips("Overlap of each class", ("class", "of all pixels", "IoU"), marks, 0.0, 1.0, caption)


def _iou(counts: Floats) -> Floats:
    """Of matrices of true and answered classes ``[..., K, K]``, for each class; nan where there is none of it."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-1) + counts.sum(-2) - right
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = right / union
    return shares

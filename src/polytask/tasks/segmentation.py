"""Which of several classes every pixel of an image belongs to."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.errors import CellsError, PolytaskError, are, counted, listed
from polytask.maps import LARGEST_CODE, arrays_of
from polytask.scorer import Scorer
from polytask.task import NO_LABEL, Codec
from polytask.tasks._dense import DenseTask, dense_scorer, mean_where, pieces, without_empty

UNSEEN = NO_LABEL - 1  # the code of a number that training has not
SMOOTHING = 1.0  # pixel, in the overlap of a class


class Segmentation(DenseTask):
    """A class for every pixel: cross-entropy and Dice loss.

    Labels are masks, a whole number at every pixel: images of one channel or with a palette, ``.npy`` files, or arrays
    ``[N, H, W]``. The classes are the numbers found in the training masks. A mask of another size is brought to that of the
    image without a number that it does not hold.

    The loss of a row is the mean over its labeled pixels of the cross-entropy, plus ``dice`` times 1 less the mean over the
    classes of (2 sum of p t + 1) / (sum of p + sum of t + 1) with probabilities p and targets t, summed over these pixels.

    Args:
        ignore: Numbers in masks that mean: no label here, such as 255 in Pascal VOC. In arrays -1 always does.
        dice: How much the Dice loss counts; 0 leaves the cross-entropy alone.

    Metrics, over all labeled pixels of all rows: ``miou``, the mean over the classes that there are of intersection over union;
    ``pixel_accuracy``; ``mean_accuracy``, the mean over the classes of their recall; ``dice``, the mean over the classes of
    twice the intersection over the sum of both; and of one class ``iou:3``.

    Answers are arrays ``[H, W]`` of the masks' own numbers, in the size that the network reads images in.

    Raises:
        PolytaskError: The masks hold one class only, more than 255, or none.

    Example:
        >>> from polytask.maps import tensors
        >>> task = Segmentation("mask", ignore=(255,))
        >>> codec = task.fit_target(tensors(np.array([[[0, 7], [255, 0]]], np.int16)))
        >>> codec.classes, codec.width, codec.space
        ((0, 7), 2, (2, 2))
    """

    paper: ClassVar[str] = "Dice loss: Milletari 2016, arXiv:1606.04797, with cross-entropy: Isensee 2018, arXiv:1809.10486"
    spatial: ClassVar[Literal["codes", "numbers", "image"] | None] = "codes"
    default_metrics: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy")

    ignore: tuple[int, ...] = ()
    dice: float = Field(default=1.0, ge=0)

    def labels_of(self, table: pa.Table) -> pa.Array:
        column = super().labels_of(table)
        return without_empty(column, lambda masks: (masks >= 0) & ~np.isin(masks, self.ignore))

    def fit_target(self, column: pa.Array) -> Codec:
        if not isinstance(column.type, pa.FixedShapeTensorType) or not len(column):
            return Codec(width=2, space=_shape(column), classes=(0, 1), start=(0.0, 0.0), dtype="int64")
        masks = arrays_of(column)
        found_there = set().union(*(np.unique(masks[rows]).tolist() for rows in pieces(masks.shape)))
        classes = sorted(code for code in found_there if code >= 0 and code not in self.ignore)
        if not 2 <= len(classes) <= UNSEEN:
            found = f"in {counted(len(masks), 'mask')} there is {listed(classes) or 'none'}"
            mend = "Give masks with a number for every class, 0 for the background, say."
            raise PolytaskError("masks have 2 to 254 classes", where=self.place, found=found, mend=mend)
        zeros = (0.0,) * len(classes)
        return Codec(width=len(classes), space=_shape(column), classes=tuple(classes), start=zeros, dtype="int64")

    def encode(self, column: pa.Array, codec: Codec) -> tuple[UInt8[Tensor, "N H W"], Bool[Tensor, " N"]]:
        present = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False).copy())
        if not isinstance(column.type, pa.FixedShapeTensorType):
            return torch.full((len(column), *codec.space), NO_LABEL, dtype=torch.uint8), present
        self.check_codec(codec.space, column)
        masks = arrays_of(column)
        table = np.full(LARGEST_CODE + 2, UNSEEN, np.uint8)  # the code of every number, and last of -1
        table[np.array(codec.classes, np.int64)] = np.arange(codec.width)
        table[[-1, *(number for number in self.ignore if 0 <= number <= LARGEST_CODE)]] = NO_LABEL
        codes = np.empty(masks.shape, np.uint8)
        for rows in pieces(masks.shape):
            codes[rows] = table[masks[rows]]
        codes[~present.numpy()] = NO_LABEL
        strange = np.concatenate(
            [np.zeros(0, np.bool_), *((codes[rows] == UNSEEN).any((1, 2)) for rows in pieces(codes.shape))]
        )
        if strange.any():
            raise self._unseen(masks, codes, np.flatnonzero(strange), codec)
        return torch.from_numpy(codes), present

    def _unseen(self, masks: NDArray[Any], codes: NDArray[np.uint8], rows: NDArray[np.intp], codec: Codec) -> PolytaskError:
        cells = {int(row): listed(np.unique(masks[row][codes[row] == UNSEEN]).tolist()) for row in rows}
        what = f"{are(len(rows), 'mask')} of classes that training has not seen"
        mend = f"The classes are {listed(codec.classes)}; name what means no label in ignore, or change the split."
        return CellsError(what, cells=cells, where=self.place, mend=mend)

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        """By the counts of each row's pixels, which are all that its loss depends on where every pixel is answered alike."""
        parts = [target[rows] for rows in pieces(target.shape)]
        counts = torch.cat(
            [torch.stack([(part == code).flatten(1).sum(1) for code in range(codec.width)], 1) for part in parts]
        ).double()
        pixels, shares = counts.sum(1, keepdim=True), weights.double() / weights.sum()
        start = (shares @ (counts / pixels)).clamp(min=1e-6).log()
        if not self.dice or self.searches_constant:
            return start.float()
        output = start.requires_grad_()
        optimizer = torch.optim.LBFGS([output], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            logs = output.log_softmax(0)
            overlap = (2 * logs.exp() * counts + SMOOTHING) / (logs.exp() * pixels + counts + SMOOTHING)
            losses = -(counts / pixels) @ logs + self.dice * (1 - overlap.mean(1))
            loss = shares @ losses
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return output.detach().float()

    def row_losses(self, output: Float[Tensor, "B K H W"], target: UInt8[Tensor, "B H W"]) -> Float[Tensor, " B"]:
        there, codes = target != NO_LABEL, target.long()
        logs = output.log_softmax(1)
        index = torch.where(there, codes, 0).unsqueeze(1)
        losses = mean_where(-logs.gather(1, index).squeeze(1), there)
        if not self.dice:
            return losses
        shares = logs.exp() * there.unsqueeze(1)
        truth = torch.zeros_like(shares).scatter_(1, index, there.unsqueeze(1).to(shares.dtype))
        both, each = (shares * truth).flatten(2).sum(2), (shares + truth).flatten(2).sum(2)
        overlap = (2 * both + SMOOTHING) / (each + SMOOTHING)
        return losses + self.dice * (1 - overlap.mean(1))

    def estimate(self, output: Float[Tensor, "B K H W"]) -> Tensor:
        return output.softmax(1)

    def merged(self, outputs: Float[Tensor, "B members K H W"]) -> Float[Tensor, "B K H W"]:
        return outputs.log_softmax(2).logsumexp(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"probability": estimate, "label": estimate.argmax(1)}

    def statistics(self, views: Any, target: Tensor, codec: Codec) -> Float[Tensor, "B n"]:
        """How many pixels of each class (rows) are answered as each (columns), ``[B, K K]``."""
        k = codec.width
        there = target != NO_LABEL
        pairs = torch.where(there, target.long() * k + views["label"].long(), k * k).flatten(1)
        rows = torch.arange(len(pairs)).unsqueeze(1) * (k * k + 1)
        counts = torch.bincount((pairs + rows).flatten(), minlength=len(pairs) * (k * k + 1))
        return counts.view(len(pairs), k * k + 1)[:, :-1].double()

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        details = [
            AnswerColumn(name=f"{self.name}:{value}", view="probability", at=code, detail=True)
            for code, value in enumerate(codec.classes)
        ]
        return (AnswerColumn(name=self.name, view="label", values=codec.classes), *details)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        k = codec.width
        found = [
            dense_scorer("miou", partial(_of_counts, k, _miou), True),
            dense_scorer("pixel_accuracy", partial(_of_counts, k, _accuracy), True),
            dense_scorer("mean_accuracy", partial(_of_counts, k, _recall), True),
            dense_scorer("dice", partial(_of_counts, k, _dice), True),
            *(
                dense_scorer(f"iou:{value}", partial(_of_counts, k, partial(_iou, i)), True)
                for i, value in enumerate(codec.classes)
            ),
        ]
        return {scorer.name: scorer for scorer in found}


def _shape(column: pa.Array) -> tuple[int, ...]:
    return tuple(column.type.shape) if isinstance(column.type, pa.FixedShapeTensorType) else (1, 1)


def _of_counts(k: int, compute: Any, sums: Tensor) -> Tensor:
    found: Tensor = compute(sums.view(k, k))
    return found


def _parts(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class the pixels that are rightly answered, those that it has, and those that are answered so."""
    return counts.diagonal(), counts.sum(1), counts.sum(0)


def _iou(code: int, counts: Tensor) -> Tensor:
    right, true, said = _parts(counts)
    return right[code] / (true + said - right)[code]


def _miou(counts: Tensor) -> Tensor:
    right, true, said = _parts(counts)
    there = true + said > 0
    return (right / (true + said - right))[there].mean()


def _dice(counts: Tensor) -> Tensor:
    right, true, said = _parts(counts)
    there = true + said > 0
    return (2 * right / (true + said))[there].mean()


def _recall(counts: Tensor) -> Tensor:
    right, true, _ = _parts(counts)
    return (right / true)[true > 0].mean()


def _accuracy(counts: Tensor) -> Tensor:
    return counts.diagonal().sum() / counts.sum()

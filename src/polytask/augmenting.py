"""Batches of training rows with their images changed at random, and with these whatever is told of every pixel.

Flips, crop, shift, rotation, zoom and shear are one affine map per row. It says of every place of the new picture, -1 to 1 from
left to right and from top to bottom, which place of the old one is shown there; so images and labels of any size move alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from polytask.augmentation import GEOMETRY, Augmentation, Operation
from polytask.batch import Batch, Inputs, Mixed, n_rows
from polytask.columns import InputCodec
from polytask.errors import PolytaskError, listed
from polytask.images import ImageFeature
from polytask.seeding import derived_seed, uniform
from polytask.task import NO_LABEL, Spatial, Task

Draw = Callable[[str, int], Tensor]  # an operation's numbers, [B, n] from 0 to 1

GREY = (0.299, 0.587, 0.114)
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), 3.3


class Augmenter:
    """Augments batches; what it draws for a row is a function of the seed, the step and the row's place in the data set.

    So a training that was stopped goes on as if it had not been, and a batch in pieces is augmented as the whole (but for
    mixup, which mixes the rows of a piece).

    Args:
        asked: What is to be done.
        inputs: The codecs of the sets of input columns, in the order of a batch's inputs.
        tasks: Those that are trained.
        seed: Of all draws.

    Attributes:
        settings: What is done: what was asked for, without what a task varies with.
        notes: What is to be said of what is left out.

    Raises:
        PolytaskError: Something is asked for, and no input is an image.
    """

    def __init__(self, asked: Augmentation, inputs: Sequence[InputCodec], tasks: Sequence[Task], seed: int) -> None:
        if asked.operations and not any(codec.image_features for codec in inputs):
            found = listed(dict.fromkeys(name for codec in inputs for name in codec.names))
            mend = "Leave augmentation out, or say which column holds images, as in --image COLUMN."
            raise PolytaskError("there is no image to augment among the inputs", where="augmentation", found=found, mend=mend)
        reasons = left_out(asked, inputs, tasks)
        self.settings = asked.without(reasons)
        self.notes = [f"augmentation: {operation} is left out, for {reason}" for operation, reason in reasons.items()]
        self.inputs, self.seed = inputs, seed
        self.spatial: dict[str, Spatial] = {task.name: task.spatial for task in tasks if task.spatial is not None}

    def __call__(self, batch: Batch, step: int) -> Batch:
        """The batch of a step with its images augmented, and its labels that are told of every pixel."""
        rows, asked = batch.rows, self.settings
        assert rows is not None  # batches of a data set have them
        if not asked.operations or not batch.n_rows:
            return batch

        def draw(name: str, n: int) -> Tensor:
            seed = derived_seed(self.seed, "augmentation", name, step)
            return uniform(seed, rows.unsqueeze(1) * n + torch.arange(n, device=rows.device))

        change = _Change(asked, draw, self._aspects(batch.inputs).to(rows.device))
        targets = {task: change.target(target, self.spatial.get(task)) for task, target in batch.targets.items()}
        labeled = {task: _still_labeled(batch, task, target, self.spatial.get(task)) for task, target in targets.items()}
        inputs, start = [], 0
        for codec, part in zip(self.inputs, batch.inputs, strict=True):
            inputs.append(change.inputs(codec, part, start))
            start += n_rows(part)
        changed = replace(batch, inputs=tuple(inputs), targets=targets, labeled=labeled)
        return self._mixed(changed, step, draw("mixup", 1)) if asked.mixup else changed

    def _aspects(self, inputs: Sequence[Inputs]) -> Float[Tensor, " B"]:
        """Width over height of each row's first image: turned by a right angle a picture that is not square is cut off."""
        first = [codec.image_features[0] if codec.image_features else None for codec in self.inputs]
        ratios = torch.tensor([1.0 if image is None else image.width / image.height for image in first])
        return ratios.repeat_interleave(torch.tensor([n_rows(part) for part in inputs]))

    def _mixed(self, batch: Batch, step: int, draws: Float[Tensor, "B 1"]) -> Batch:
        """Every row with an image mixed with another of its input set."""
        generator = np.random.default_rng(derived_seed(self.seed, "augmentation", "mixup", step))
        share = float(generator.beta(self.settings.mixup, self.settings.mixup))
        inputs: list[Inputs] = []
        orders: list[Tensor] = []
        start = 0
        for codec, part in zip(self.inputs, batch.inputs, strict=True):
            n, images = n_rows(part), codec.image_features
            order = torch.arange(n, device=draws.device)
            if n and images:
                rows = (~torch.stack([_missing(codec, image, part) for image in images]).any(0)).nonzero().squeeze(1)
                order[rows] = rows[draws[start + rows, 0].argsort(stable=True)]
            inputs.append({key: value if key == "categories" else _mix(value, order, share) for key, value in part.items()})
            orders.append(order + start)
            start += n
        return replace(batch, inputs=tuple(inputs), mixed=Mixed(torch.cat(orders), share))


class _Change:
    """What is done to the rows of a batch in a step."""

    def __init__(self, asked: Augmentation, draw: Draw, aspects: Float[Tensor, " B"]) -> None:
        self.asked, self.draw = asked, draw
        self.maps = affine_maps(asked, draw, aspects) if set(asked.operations) & set(GEOMETRY) else None

    def target(self, target: Tensor, spatial: Spatial | None) -> Tensor:
        """A task's labels after it: those that are told of every pixel, and the picture that is to be told."""
        if spatial == "image":
            return self._picture(target, slice(None)).round_().to(torch.uint8)
        if spatial is None or self.maps is None:
            return target
        return moved_labels(target, self.maps, NO_LABEL if spatial == "codes" else math.nan)

    def inputs(self, codec: InputCodec, part: Inputs, start: int) -> Inputs:
        """One input set after it, the rows of which begin at ``start``; a missing image stays as it is."""
        rows = slice(start, start + n_rows(part))
        found = dict(part)
        for image in codec.image_features if n_rows(part) else ():
            pixels = part[image.key]
            changed = self._picture(pixels, rows)
            if self.asked.erasing:
                mean = torch.tensor(image.mean, device=pixels.device).round().view(-1, 1, 1)
                erased = rectangles(self.asked.erasing, self.draw("erasing", 5)[rows], pixels.shape[-2], pixels.shape[-1])
                changed = torch.where(_over(erased, pixels), mean, changed)
            found[image.key] = changed.round_().to(torch.uint8)
            missing = _missing(codec, image, part)
            found[image.key][missing] = pixels[missing]
        return found

    def _picture(self, pixels: UInt8[Tensor, "B *frames C H W"], rows: slice) -> Float[Tensor, "B *frames C H W"]:
        """Images moved and recolored."""
        values = pixels.float()
        if self.maps is not None:
            values = moved_pixels(values, self.maps[rows])
        if self.asked.color:
            values = recolored(values, 1 + self.asked.color * _signed(self.draw("color", 3)[rows])).clamp_(0, 255)
        return values


def left_out(asked: Augmentation, inputs: Sequence[InputCodec], tasks: Sequence[Task]) -> dict[Operation, str]:
    """The operations that are asked for and cannot be, with the reason in words."""
    reasons: dict[Operation, str] = {}
    for operation in asked.operations:
        varying = [repr(task.name) for task in tasks if operation in task.varies_with]
        if varying:
            reasons[operation] = f"{listed(varying)} {'varies' if len(varying) == 1 else 'vary'} with it"
    if asked.mixup and "mixup" not in reasons:
        comparing = [repr(task.name) for task in tasks if task.couples_rows]
        hiding = [repr(task.name) for task in tasks if task.hides]
        categories = [name for codec in inputs if codec.image_features for name in codec.categories]
        if comparing:
            reasons["mixup"] = f"the loss of {listed(comparing)} compares rows"
        elif hiding:
            reasons["mixup"] = f"{listed(hiding)} is to tell what is hidden of one image"
        elif categories:
            reasons["mixup"] = f"{listed(map(repr, categories))} cannot be mixed, and stands beside an image"
    return reasons


def affine_maps(asked: Augmentation, draw: Draw, aspects: Float[Tensor, " B"]) -> Float[Tensor, "B 2 3"]:
    """Per row the map from places of the new picture to places of the old one, as ``functional.affine_grid`` takes it.

    A picture is cropped, flipped, sheared, zoomed, rotated and shifted, in this order.

    Args:
        asked: How much of each.
        draw: The draws of an operation.
        aspects: Width over height of each row's picture.
    """
    angle = math.radians(asked.rotation) * _signed(draw("rotation", 1)[:, 0])
    slope = (math.radians(asked.shear) * _signed(draw("shear", 1)[:, 0])).tan()
    smaller = torch.exp(-math.log1p(asked.zoom) * _signed(draw("zoom", 1)[:, 0]))
    shift = 2 * asked.shift * _signed(draw("shift", 2))
    cropped = draw("crop", 3)
    side = 1 - asked.crop * cropped[:, :1]
    flips = [(draw(name, 1) >= probability).float() * 2 - 1 for name, probability in _flips(asked)]
    cos, sin = angle.cos(), angle.sin()
    # The inverse of rotation, zoom and shear in units of half the height, and from these to halves of each side.
    across = torch.stack([cos + slope * sin, (sin - slope * cos) / aspects], 1)
    down = torch.stack([-sin * aspects, cos], 1)
    linear = torch.stack([across, down], 1) * (smaller.unsqueeze(1) * side * torch.cat(flips, 1)).unsqueeze(2)
    center = (1 - side) * _signed(cropped[:, 1:])
    return torch.cat([linear, center.unsqueeze(2) - linear @ shift.unsqueeze(2)], 2)


def moved_pixels(pixels: Float[Tensor, "B *frames C H W"], maps: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B *frames C H W"]:
    """Images where the maps put them, all frames of a row alike; between pixels in proportion, outside mirrored."""
    flat = pixels.flatten(1, -3)
    grid = functional.affine_grid(maps, [len(flat), 1, *flat.shape[2:]], align_corners=False)
    return functional.grid_sample(flat, grid, padding_mode="reflection", align_corners=False).view(pixels.shape)


def moved_labels(labels: Tensor, maps: Float[Tensor, "B 2 3"], nothing: float) -> Tensor:
    """Labels of every pixel, ``[B, *any, H, W]``, where the maps put them: each the nearest, outside ``nothing``.

    Example:
        >>> mask = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
        >>> half_to_the_left = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
        >>> moved_labels(mask, half_to_the_left, 255).tolist()
        [[[2, 255], [4, 255]]]
    """
    height, width = labels.shape[-2:]
    grid = functional.affine_grid(maps, [len(labels), 1, height, width], align_corners=False)
    column, row = ((grid + 1) / 2 * grid.new_tensor([width, height])).floor().long().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)
    flat = labels.reshape(len(labels), -1, height * width)
    found = flat.gather(2, place.unsqueeze(1).expand_as(flat)).view(labels.shape)
    return torch.where(_over(inside, labels), found, torch.tensor(nothing, dtype=labels.dtype, device=labels.device))


def recolored(pixels: Float[Tensor, "B *frames C H W"], factors: Float[Tensor, "B 3"]) -> Float[Tensor, "B *frames C H W"]:
    """Images with brightness, contrast and saturation multiplied by these factors, all frames of a row alike.

    Saturation is the distance of a pixel from its grey, contrast that from the picture's mean grey.
    """
    brightness, contrast, saturation = (factor.view(-1, *(1,) * (pixels.ndim - 1)) for factor in factors.unbind(1))
    if pixels.shape[-3] == len(GREY):
        grey = torch.einsum("...chw,c->...hw", pixels, pixels.new_tensor(GREY)).unsqueeze(-3)
    else:
        grey, saturation = pixels, torch.ones_like(saturation)
    mean = grey.mean(tuple(range(1, pixels.ndim)), keepdim=True)
    offset = brightness * ((1 - contrast) * mean + contrast * (1 - saturation) * grey)
    return torch.addcmul(offset, pixels, brightness * contrast * saturation)


def rectangles(share: float, draws: Float[Tensor, "B 5"], height: int, width: int) -> Bool[Tensor, "B H W"]:
    """The pixels in a rectangle of every row; in none of them but a share of the rows."""
    wanted, area, ratio, top, left = draws.unbind(1)
    least, most = ERASED_AREA
    area, ratio = least + (most - least) * area, torch.exp(math.log(ERASED_RATIO) * _signed(ratio))
    high, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    sides = []
    for extent, first, n in ((high, top * (1 - high), height), (wide, left * (1 - wide), width)):
        places = (torch.arange(n, device=draws.device) + 0.5) / n - first.unsqueeze(1)
        sides.append((places >= 0) & (places < extent.unsqueeze(1)) & (wanted < share).unsqueeze(1))
    return sides[0].unsqueeze(2) & sides[1].unsqueeze(1)


def _still_labeled(batch: Batch, task: str, target: Tensor, spatial: Spatial | None) -> Int[Tensor, " n"] | None:
    """The rows with a label of a task after its targets were moved: not those whose last labeled pixel went outside."""
    if spatial not in ("codes", "numbers"):
        return batch.labeled[task]
    there = (~target.isnan() if target.is_floating_point() else target != NO_LABEL).flatten(1).any(1)
    rows = (there & batch.present(task)).nonzero().squeeze(1)
    return None if len(rows) == batch.n_rows else rows


def _missing(codec: InputCodec, image: ImageFeature, part: Inputs) -> Bool[Tensor, " B"]:
    """The rows of an input set that lack this image: a number tells them apart where training had such rows."""
    told = [index for index, number in enumerate(codec.number_features) if number.column == image.column]
    return (part["numbers"][:, told] > 0).any(1)


def _flips(asked: Augmentation) -> Sequence[tuple[Operation, float]]:
    return ("flip", asked.flip), ("vertical_flip", asked.vertical_flip)


def _signed(draws: Tensor) -> Tensor:
    """Draws from -1 to 1."""
    return 2 * draws - 1


def _over(places: Bool[Tensor, "B H W"], tensor: Tensor) -> Tensor:
    """Places of every row as a mask over ``[B, *any, H, W]``."""
    return places.view(len(places), *(1,) * (tensor.ndim - 3), *places.shape[1:])


def _mix(values: Tensor, order: Int[Tensor, " B"], share: float) -> Tensor:
    """Every row with its partner: ``share`` of its own."""
    mixed = torch.lerp(values[order].float(), values.float(), share)
    return mixed.round().to(values.dtype) if not values.is_floating_point() else mixed

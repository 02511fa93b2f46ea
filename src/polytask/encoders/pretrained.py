"""Images through a network of Hugging Face transformers that has learned from other images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from weakref import WeakValueDictionary

import torch
from pydantic import Field

from polytask.batch import FeatureSpec
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Pace, Part
from polytask.encoders._backbone import Embed, PretrainedStem, differs, stages_of
from polytask.encoders._image import ImageEncoder
from polytask.encoders._transformers import Backbone, fresh, loaded, settings_of
from polytask.errors import PolytaskError, one_line

TOLERANCE = 1e-4
_known: WeakValueDictionary[str, Backbone] = WeakValueDictionary()  # while the parts of one plan are built


class Pretrained(ImageEncoder):
    """A network of transformers, with the weights it has learned, as a stem and stages that any sharing scheme can copy.

    Convolutional networks (resnet, convnext, regnet, mobilenet_v2, efficientnet, ...) and swin give maps, and have the stages
    of their papers: their own, or runs of layers with as many channels. Others (vit, deit, beit, dinov2, the images' part of
    clip and siglip, ...) give a sequence, the patches row by row, then the class token and others, and have ``parts``
    stages of layers; heads read the mean over all of it. The last stage gives what transformers calls ``last_hidden_state``.

    Pixels are scaled as the model's preprocessor_config.json says, else by the training images. ``images.size`` of a recipe
    decides their size; where it says none it is the model's own. Networks of patches take other sizes that are multiples of a
    patch, for which what they know of places is interpolated. Grey images are repeated for each channel. Numbers and
    categories beside the image are added to the stem's output at every place through a layer that begins near zero, and of
    several images the stem's outputs are averaged: so the network begins as it has learned.

    Batch normalization uses the statistics that it came with, and only learns its scale and shift: a row's features depend on
    no other row. Loaded are a JSON file and safetensors, never code or a pickle. A trained model holds settings and weights,
    and needs neither the folder nor a network any more; a training that is resumed reads the folder again.

    Args:
        model: A folder that ``save_pretrained`` of transformers wrote, or a name on the hub of Hugging Face, such as
            facebook/dinov2-small. Of one of images and texts, such as CLIP, the images' part is taken.
        parts: The stages into which layers that are all alike are put.
        frozen: What is not trained: none, all of the model, or its stem and so many stages from the first on.
        thaw_every: After so many epochs the last stage that is frozen is trained too, after as many more the one before it,
            the stem at last. It should be less than ``trainer.patience``. None thaws nothing.
        rate: What multiplies the trainer's learning rate, which suits weights that begin at random.
        layer_decay: What multiplies it once more per stage counted from the last; the stem has the least.
        config: The settings of the network, and
        pixels: those of its pixels: filled in by a training, for the model that it saves. Where they are given nothing is read
            from ``model``, and weights begin at random.

    Raises:
        PolytaskError: ``thaw_every`` without anything frozen.

    Example:
        >>> Pretrained(model="facebook/dinov2-small", frozen="all", thaw_every=2).to_dict()["frozen"]
        'all'
    """

    paper: ClassVar[str] = (
        "gradual unfreezing: Howard 2018, arXiv:1801.06146, section 3.3; a decaying learning rate per layer: Clark 2020, "
        "arXiv:2003.10555"
    )
    extra: ClassVar[str] = "pretrained"
    brings_weights: ClassVar[bool] = True
    pace_fields: ClassVar[frozenset[str]] = frozenset({"frozen", "thaw_every", "rate", "layer_decay"})
    held_fields: ClassVar[frozenset[str]] = frozenset({"config", "pixels"})

    model: str = Field(min_length=1)
    parts: int = Field(default=4, ge=1)
    frozen: Literal["none", "all"] | Annotated[int, Field(ge=0)] = "none"
    thaw_every: int | None = Field(default=None, ge=1)
    rate: float = Field(default=0.05, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    config: Mapping[str, Any] | None = Field(default=None, repr=False)
    pixels: Mapping[str, Any] | None = Field(default=None, repr=False)

    def model_post_init(self, _: object) -> None:
        """Refuse to thaw what is not frozen."""
        if self.thaw_every is not None and self.frozen == "none":
            mend = "Set frozen: all, or a number of stages."
            raise PolytaskError("nothing is frozen that could thaw", where="thaw_every", found=str(self.thaw_every), mend=mend)

    def settled(self, before: Encoder | None = None) -> Self:
        if self.config is not None:
            return self
        if isinstance(before, Pretrained) and before.config is not None and before.model == self.model:
            return self.model_copy(update={"config": before.config, "pixels": before.pixels})
        config, pixels = settings_of(self.model)
        return self.model_copy(update={"config": config, "pixels": pixels})

    def anchored(self) -> Self:
        folder = Path(self.model).expanduser()
        return self.model_copy(update={"model": str(folder.absolute())}) if folder.is_dir() else self

    @property
    def image_size(self) -> tuple[int, int] | None:
        known = self.settled()
        own, pixels = known.config or {}, known.pixels or {}
        for wish in (pixels.get("crop_size"), pixels.get("size"), own.get("image_size")):
            if sides := _sides(wish):
                return sides
        return None

    def stem(self, codec: InputCodec) -> Part:
        backbone, space = self._backbone(), self.space(codec)
        embed = Embed(backbone, space)
        for image in codec.image_features:
            if image.channels not in (1, embed.n_channels):
                found = f"{image.channels} channels, where the model reads {embed.n_channels}"
                mend = "Set images.color=grey."
                raise PolytaskError(f"it cannot read the image {image.column!r}", where=self._where, found=found, mend=mend)
        pixels = torch.rand(1, embed.n_channels, *space, generator=torch.Generator().manual_seed(0))
        with self._reading(space):
            spec = embed.spec_of(pixels)
            stages = stages_of(backbone, spec, self.parts)
            apart = differs(backbone, embed, stages, pixels) if self.config is None else 0.0
        if apart > TOLERANCE:
            what = "a variant that polytask does not know: its parts do not give what the whole network gives"
            raise PolytaskError(what, where=self._where, found=f"they differ by {apart:.1g} of it", mend="Take another model.")
        pace, said = self._pace(0, len(stages)), self.settled().pixels
        return Part(spec, lambda: PretrainedStem(codec, Embed(backbone, space), spec, pace, said))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        backbone = self._backbone()
        with self._reading(spec.space):
            stages = stages_of(backbone, spec, self.parts)
        paces = [self._pace(index, len(stages)) for index in range(1, len(stages) + 1)]
        return [Part(stage.spec, partial(stage.copied, pace)) for stage, pace in zip(stages, paces, strict=True)]

    @property
    def _where(self) -> str:
        return f"encoder pretrained, model {self.model!r}"

    def _backbone(self) -> Backbone:
        """The network, taken apart; remembered as long as somebody has one of its parts."""
        key = json.dumps([self.model, self.config])
        found = _known.get(key)
        if found is None:
            config = self.settled().config
            assert config is not None
            found = _known[key] = loaded(self.model, config) if self.config is None else fresh(config)
        return found

    def _pace(self, index: int, n_stages: int) -> Pace | None:
        """How the stem (0) or a stage is trained; None where it is not."""
        n_frozen = 0 if self.frozen == "none" else 1 + (n_stages if self.frozen == "all" else self.frozen)
        if n_frozen > n_stages + 1:
            raise PolytaskError(f"the model has {n_stages} stages", where=f"{self._where}, frozen", found=str(self.frozen))
        if index < n_frozen and self.thaw_every is None:
            return None
        start = (self.thaw_every or 0) * max(n_frozen - index, 0)
        return Pace(self.rate * self.layer_decay ** (n_stages - index), start)

    @contextmanager
    def _reading(self, space: tuple[int, ...]) -> Iterator[None]:
        """Within, what a network cannot read is told."""
        try:
            yield
        except PolytaskError:
            raise
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            own, side = self.image_size, " x ".join(map(str, space))
            mend = "Set images.size" + (f"={own[0]}, the model's own." if own else " larger.")
            raise PolytaskError(
                f"the model cannot read images of {side}", where=self._where, found=one_line(error)[:200], mend=mend
            ) from None


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width, where settings say them as one number, two, or by name."""
    if isinstance(size, Mapping):
        size = [size.get(name, size.get("shortest_edge")) for name in ("height", "width")]
    sides = [size, size] if isinstance(size, int) else list(size or ())
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None

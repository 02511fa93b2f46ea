"""The encoder contract: one input becomes features, by a stem and a list of stages whose shapes are known beforehand."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import pyarrow as pa
from torch import nn

from polytask.batch import Features, FeatureSpec, Inputs, concatenate, has_rows
from polytask.cells import ColumnKind
from polytask.columns import InputCodec
from polytask.component import Component
from polytask.errors import PolytaskError, listed
from polytask.images import ImageFeature
from polytask.pictures import Pictures
from polytask.seeding import Clock, derived_seed, seed_draws, seeded


@dataclass(frozen=True)
class Pace:
    """How fast the parameters of a module are trained, that has this as its attribute ``pace``.

    Args:
        factor: What multiplies their learning rate.
        start: The first epoch, from 0, in which they are trained; before it they are frozen.

    Example:
        >>> [Pace(0.5, start=2).at(epoch) for epoch in range(4)]
        [0.0, 0.0, 0.5, 0.5]
    """

    factor: float = 1.0
    start: int = 0

    def at(self, epoch: int) -> float:
        """The factor in an epoch, 0 where they are frozen."""
        return self.factor if epoch >= self.start else 0.0


@dataclass(frozen=True)
class Part:
    """A stem or stage that can be built any number of times: its static output shape, and how to make the module.

    A stem's module maps ``Inputs -> Features``, a stage's ``Features -> Features``. A module in it may have a ``pace``, see
    Pace, and parameters that are never trained do not require a gradient.
    """

    spec: FeatureSpec
    build: Callable[[], nn.Module]


class Encoder(Component, family="encoders"):
    """Turns the input columns of a table into features.

    To add one, write ``encoders/<kind>.py`` with one class that has ``stem`` and ``stages``.

    Class attributes:
        reads_images: Whether it needs an image among its inputs; else it reads numbers and categories alone.
        reads_clips: Whether its images may have several frames.
        brings_weights: Whether its parts begin with weights that were learned elsewhere.
        pace_fields: The fields that say how its parts are trained, not what they are.
        held_fields: The fields that ``settled`` fills for a model that is saved, and that no recipe needs.
    """

    reads_images: ClassVar[bool] = False
    reads_clips: ClassVar[bool] = False
    brings_weights: ClassVar[bool] = False
    pace_fields: ClassVar[frozenset[str]] = frozenset()
    held_fields: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def from_value(cls, value: object) -> Encoder | None:
        """An ``nn.Module`` becomes the encoder ``external``."""
        return (
            cls.coerce({"kind": "external", "name": type(value).__name__, "module": value})
            if isinstance(value, nn.Module)
            else None
        )

    def fit_inputs(
        self,
        table: pa.Table,
        names: Sequence[str],
        kinds: Mapping[str, ColumnKind],
        images: Mapping[str, tuple[ImageFeature, Pictures]] | None = None,
    ) -> InputCodec:
        """Learn from the training rows how the columns ``names`` become tensors; some may be images that were read before."""
        return InputCodec.fit(table, names, kinds, images=images)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The height and width that images should have where nobody says; None where it has no wish."""
        return None

    def anchored(self) -> Self:
        """The same encoder with absolute paths."""
        return self

    def settled(self, before: Encoder | None = None) -> Self:
        """The same encoder with all that its parts are built from, weights aside: a model that is saved holds this.

        Args:
            before: That of the earlier run that a training goes on from.
        """
        del before
        return self

    def check_reads(self, images: Sequence[str], others: Sequence[str]) -> None:
        """Whether the encoder reads inputs of these kinds, told by their names.

        Raises:
            PolytaskError: It reads no images, or nothing but images, and others are there.
        """
        where = f"encoder {self.kind}"
        if images and not self.reads_images:
            kinds = [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_images]
            mend = f"Take one of images, such as encoder: cnn (there is: {listed(kinds)}), or drop them."
            raise PolytaskError("it reads numbers and categories, not images", where=where, found=listed(images), mend=mend)
        if self.reads_images and not images:
            mend = "Say which column is one (columns: {photo: image}, or --image photo), or take encoder: tabm."
            raise PolytaskError("it reads images, and none is among the inputs", where=where, found=listed(others), mend=mend)

    def check_frames(self, image: ImageFeature) -> None:
        """Whether the encoder reads an image of so many frames.

        Raises:
            PolytaskError: It has several, and the encoder reads still images alone.
        """
        if image.frames > 1 and not self.reads_clips:
            kinds = [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_clips]
            what, found = "it reads still images, not clips", f"{image.column!r} with {image.frames} frames"
            mend = f"Take encoder: {listed(kinds)}, or one frame with images.frames: 1."
            raise PolytaskError(what, where=f"encoder {self.kind}", found=found, mend=mend)

    def check_pixels(self, task: str, kind: str) -> None:
        """Whether a task of this kind, with an answer at every pixel, can be learned from the encoder's features.

        Raises:
            PolytaskError: They are no maps.
        """
        if not self.reads_images:
            what = f"a {kind} task has an answer at every pixel, and encoder {self.kind} makes one vector of a row"
            mend = "Take an encoder of images, such as encoder: cnn, and say which column is one: --image photo."
            raise PolytaskError(what, where=f"task {task!r}", mend=mend)

    @abstractmethod
    def stem(self, codec: InputCodec) -> Part:
        """The part that reads raw inputs.

        Its spec may not depend on which columns there are: sources with other columns have a stem of their own before the
        same stages.
        """

    @abstractmethod
    def stages(self, spec: FeatureSpec) -> list[Part]:
        """The parts after a stem with output ``spec``, at least one."""


class Stems(nn.Module):
    """One stem per distinct set of input columns, by the columns' ``set_key``; rows come out in the order of the sets."""

    def __init__(self, stems: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.stems = nn.ModuleDict(stems)

    def forward(self, inputs: Sequence[Inputs]) -> Features:
        stems = list(self.stems.values())
        if len(stems) == 1:
            return stems[0](inputs[0])  # type: ignore[no-any-return]
        used = [(stem, part) for stem, part in zip(stems, inputs, strict=True) if has_rows(part)]
        return concatenate([stem(part) for stem, part in used])


class TrunkPlan:
    """What a sharing scheme sees of an encoder: specs, and a maker of as many copies of each part as it wants.

    Each copy has a name, and its initial weights and dropout are drawn from (seed, part, name): two schemes that build the
    stage "2 for price" get the same stage, whatever else they build.

    Attributes:
        specs: The specs of the stem's and then of each stage's output.
        made: The modules that were handed out, by what they are: "stem", "stage 1", ..., "own".
    """

    def __init__(self, encoder: Encoder, codecs: Sequence[InputCodec], seed: int = 0, clock: Clock | None = None) -> None:
        for codec in codecs:
            encoder.check_reads([image.column for image in codec.image_features], [*codec.numbers, *codec.categories])
            for image in codec.image_features:
                encoder.check_frames(image)
        self._stems = {set_key(codec): encoder.stem(codec) for codec in codecs}
        first, *others = self._stems.values()
        specs = {first.spec, *(part.spec for part in others)}
        if len(specs) != 1:
            raise PolytaskError(f"the stems of encoder {encoder.kind!r} differ in shape", found=str(specs))
        self._stages = encoder.stages(first.spec)
        self._seed, self._clock = seed, clock or Clock()
        self.made: dict[str, list[nn.Module]] = {}
        self.specs = (first.spec, *(part.spec for part in self._stages))

    @property
    def n_stages(self) -> int:
        """The number of stages after the stem."""
        return len(self._stages)

    def stem(self, name: str = "shared", like: str | None = None) -> nn.Module:
        """A new stem, ``Sequence[Inputs] -> Features``, with the initial weights of the one named ``like`` if that is given."""
        parts = enumerate(self._stems.items())
        return Stems({key: self._make("stem", part.build, ("stem", i), name, like) for i, (key, part) in parts})

    def stage(self, index: int, name: str = "shared", like: str | None = None) -> nn.Module:
        """A new copy of stage ``index`` (from 0), ``Features -> Features``; ``like`` as for a stem."""
        return self._make(f"stage {index + 1}", self._stages[index].build, ("stage", index), name, like)

    def own(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """A module of the scheme's own, such as a task's gate: its weights and draws depend on the seed and its name too."""
        return self._make("own", build, ("own",), name)

    def _make(
        self, part: str, build: Callable[[], nn.Module], place: tuple[object, ...], name: str, like: str | None = None
    ) -> nn.Module:
        with seeded(derived_seed(self._seed, "weights", *place, name if like is None else like)):
            module = build()
        self.made.setdefault(part, []).append(module)
        return seed_draws(module, derived_seed(self._seed, "draws", *place, name), self._clock)


def set_key(codec: InputCodec) -> str:
    """What the stem of a set of input columns is called: the same wherever there are these columns."""
    return f"columns {derived_seed(0, *codec.kinds):016x}"


def copies_of(module: nn.Module) -> Callable[[], nn.Module]:
    """A builder that hands out deep copies of a module somebody else made."""
    return lambda: copy.deepcopy(module)

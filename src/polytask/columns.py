"""How the input columns of a table become the numbers and category codes that a network reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytask.cells import CategoryFeature, Cells, ColumnKind, NumberFeature, decoded, is_text, refuse_stray_text
from polytask.component import Settings
from polytask.errors import PolytaskError, counted, did_you_mean, listed
from polytask.images import ENDINGS, ImageFeature, Images
from polytask.pictures import Pictures, form_of, holds_clips, holds_images, read_pictures

if TYPE_CHECKING:
    from torch import Tensor

NEARLY_ALL = 0.9
MANY = 100  # ten rows can all differ by chance; a hundred cannot
HEAD_ROWS = 2000
IMAGE_NAME = r"(?i)\.(" + "|".join(ending[1:] for endings in ENDINGS.values() for ending in endings) + ")$"


class InputCodec(Settings):
    """What training learned about the input columns; ``encode`` turns any table with these columns into tensors.

    - A number is standardized by the training cells' mean and deviation (computed in float64) and clipped to [-10, 10].
      A missing cell is 0; where training had missing cells a number "... is missing" tells them apart.
    - A boolean is the number 0 or 1.
    - A date is a number, the seconds since 1970; where they vary, the hour of the day (a number) and month and weekday
      (categories, so that a season or a weekend need not be one stretch of a scale).
    - A category has the codes 1 ... K by descending frequency in training; 0 means never seen there. Missing cells have a code
      of their own, the last one, where training had some, and are 0 elsewhere.
    - An image is uint8 ``[channels, height, width]``, a clip ``[frames, channels, height, width]``; networks subtract the mean
      of the training images and divide by their deviation, per channel. A missing one has the mean color everywhere, and a
      number "... is missing" as above.

    Attributes:
        kinds: The kind of every input column, in the order given.
        number_features: The numbers, in the order of ``encode(...)["numbers"]``.
        category_features: The categories, in the order of ``encode(...)["categories"]``.
        image_features: The images; the tensor of each has its ``key`` among what ``encode`` gives.
        constant: Columns left out because all their training cells are alike.
        identifiers: Columns left out because they only name the rows: see ``names_rows``. One whose kind is given is kept.

    Example:
        >>> table = pa.table({"area": [80.0, 100.0, None, 120.0], "suburb": ["north", "south", "north", "north"]})
        >>> codec = InputCodec.fit(table, ["area", "suburb"])
        >>> codec.numbers, codec.cardinalities
        (('area', 'area is missing'), (3,))
        >>> encoded = codec.encode(pa.table({"area": [100.0, None], "suburb": ["south", "west"]}))
        >>> encoded["numbers"].tolist(), encoded["categories"].tolist()
        ([[0.0, 0.0], [0.0, 1.0]], [[2], [0]])
    """

    kinds: dict[str, ColumnKind]
    number_features: tuple[NumberFeature, ...]
    category_features: tuple[CategoryFeature, ...]
    image_features: tuple[ImageFeature, ...] = ()
    constant: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        table: pa.Table,
        names: Sequence[str],
        kinds: Mapping[str, ColumnKind] | None = None,
        n_bins: int = 48,
        max_categories: int = 256,
        images: Mapping[str, tuple[ImageFeature, Pictures]] | None = None,
    ) -> Self:
        """Learn the encoding from the training rows.

        Args:
            table: The training rows.
            names: The input columns.
            kinds: The kind of columns whose guess (see ``describe_column``) is not to be followed.
            n_bins: The most bins a number is cut into.
            max_categories: The most values of a category that get a code; the rarer ones are 0.
            images: The images of columns that were read before, of these rows; the others' are read here.

        Raises:
            PolytaskError: A column is not there, does not fit its kind or holds infinite values; or no column varies.
        """
        chosen = dict(kinds or {}) | dict.fromkeys(images or {}, "image")
        _require(table, [name for name in names if name not in (images or {})])
        if strangers := [name for name in chosen if name not in names]:
            what = f"a kind is given for columns that are no inputs: {listed(strangers)}"
            raise PolytaskError(what, mend=did_you_mean(strangers[0], names))
        numbers: list[NumberFeature] = []
        categories: list[CategoryFeature] = []
        constant: list[str] = []
        identifiers = [name for name in names if name not in chosen and names_rows(table[name]) == "surely"]
        features: list[ImageFeature] = []
        if len(identifiers) == len(names):  # better a doubtful input than none
            identifiers = []
        for name in names:
            chosen[name] = chosen.get(name) or _guess(name, table[name])
            if name in identifiers:
                continue
            if chosen[name] == "image":
                form, pictures = (images or {}).get(name) or _read_here(name, table[name])
                features.append(pictures.fitted(form))
                numbers += pictures.number_features(name)
                continue
            cells = Cells(name, chosen[name], table[name])
            found = cells.number_features(n_bins), cells.category_features(max_categories)
            numbers += found[0]
            categories += found[1]
            if not any(found):
                constant.append(name)
        if not numbers and not categories and not features:
            size = f"{counted(len(names), 'column')} and {counted(table.num_rows, 'training row')}"
            found_here = f"{size}; the same everywhere: {listed(constant) or 'none'}"
            raise PolytaskError("no input column varies", found=found_here, mend="Name columns that tell the rows apart.")
        ordered: dict[str, ColumnKind] = {name: chosen[name] for name in names}
        return cls(
            kinds=ordered,
            number_features=tuple(numbers),
            category_features=tuple(categories),
            image_features=tuple(features),
            constant=tuple(constant),
            identifiers=tuple(identifiers),
        )

    def pictures(self, table: pa.Table) -> dict[str, Pictures]:
        """The images of every column of images, read.

        Raises:
            PolytaskError: A column is not there, or holds none.
            CellsError: Some cannot be used, and are not to be skipped.
        """
        _require(table, [feature.column for feature in self.image_features])
        return {feature.column: read_pictures(table[feature.column], feature) for feature in self.image_features}

    def encode(self, table: pa.Table, pictures: Mapping[str, Pictures] | None = None) -> dict[str, Tensor]:
        """As ``arrays``, as tensors."""
        import torch  # here, because a model that was exported reads rows where there is no torch

        return {name: torch.from_numpy(array) for name, array in self.arrays(table, pictures).items()}

    def arrays(self, table: pa.Table, pictures: Mapping[str, Pictures] | None = None) -> dict[str, NDArray[Any]]:
        """What a network reads of the rows.

        Args:
            table: The rows.
            pictures: Their images, where they have been read.

        Returns:
            "numbers", float32 of shape [N, len(numbers)], "categories", int64 of shape [N, len(cardinalities)], and for every
            image feature, by its key, uint8 of shape [N, channels, height, width], of clips with frames before the channels.

        Raises:
            PolytaskError: A column is not there, holds cells that do not fit its kind (told by row, the first being 1), or
                infinite values.
        """
        _require(table, self.names)
        numbers = np.empty((table.num_rows, len(self.number_features)), np.float32)
        categories = np.empty((table.num_rows, len(self.category_features)), np.int64)
        read = self.pictures(table) if pictures is None else pictures
        cells = {name: read[name] if name in read else Cells(name, self.kinds[name], table[name]) for name in self.names}
        for index, number in enumerate(self.number_features):
            numbers[:, index] = cells[number.column].standardized(number)
        for index, category in enumerate(self.category_features):
            found = cells[category.column]
            assert isinstance(found, Cells)  # no images have categories
            categories[:, index] = found.codes(category)
        filled = {feature.key: read[feature.column].filled(feature) for feature in self.image_features}
        return {"numbers": numbers, "categories": categories, **filled}

    def made_up(self, n_rows: int) -> dict[str, Tensor]:
        """Rows such as ``encode`` gives, of no table: for trying out a network."""
        import torch

        numbers = torch.linspace(-2, 2, n_rows).unsqueeze(1).repeat(1, len(self.numbers))
        categories = torch.arange(n_rows).unsqueeze(1) % torch.tensor(self.cardinalities, dtype=torch.int64)
        images = {feature.key: torch.from_numpy(_made_up_images(n_rows, feature)) for feature in self.image_features}
        return {"numbers": numbers, "categories": categories, **images}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that ``encode`` reads: all but those left out."""
        features: list[NumberFeature | CategoryFeature | ImageFeature]
        features = [*self.number_features, *self.category_features, *self.image_features]
        read = {feature.column for feature in features}
        return tuple(name for name in self.kinds if name in read)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of the number features."""
        return tuple(feature.name for feature in self.number_features)

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of the category features."""
        return tuple(feature.name for feature in self.category_features)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """The number of codes of each category, 0 included."""
        return tuple(feature.cardinality for feature in self.category_features)

    @property
    def bins(self) -> tuple[tuple[float, ...], ...]:
        """The increasing bin edges of each number feature, two at least, on the standardized scale."""
        return tuple(feature.edges for feature in self.number_features)


def describe_column(column: pa.ChunkedArray) -> tuple[ColumnKind, str]:
    """The kind of input a column most likely is, and why, in plain words.

    Raises:
        PolytaskError: The column holds lists or other nested values.

    Example:
        >>> describe_column(pa.chunked_array([["north", "south", "north"]]))
        ('category', 'text with 2 different values')
        >>> describe_column(pa.chunked_array([[3, 4, 3, 6]]))
        ('number', '3 different whole numbers from 3 to 6; say category if they are codes without an order')
    """
    column = decoded(column)
    kind, types = column.type, pa.types
    if holds_images(column):
        frames, size = (kind.shape[0], kind.shape[1:]) if holds_clips(column) else (1, kind.shape)
        what = "images" if frames == 1 else f"clips of {frames} frames"
        return "image", f"{what} of {' x '.join(map(str, size))}"
    present = column.drop_null()
    if not len(present):
        return "number", "every cell is missing, so it is left out"
    if types.is_boolean(kind):
        return "boolean", "true or false"
    if types.is_date(kind) or types.is_timestamp(kind):
        span = pc.min_max(present.cast(pa.timestamp("us"), safe=False).cast(pa.date32(), safe=False)).as_py()
        return "date", f"dates from {span['min']} to {span['max']}"
    if not (is_text(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        raise PolytaskError(f"a column of {kind} cannot be an input", mend="Drop it, or turn it into numbers or text first.")
    n_values = pc.count_distinct(present).as_py()
    unique = len(present) >= MANY and n_values > NEARLY_ALL * len(present)
    if is_text(kind):
        return "category", _about_text(present, n_values, unique)
    span = pc.min_max(present).as_py()
    limits = f"from {span['min']} to {span['max']}"
    if not types.is_integer(kind):
        return "number", f"numbers {limits}"
    if unique and n_values == len(present):
        return "number", f"whole numbers {limits}, no two alike: drop it if it names the rows"
    hint = "; say category if they are codes without an order" if 3 <= n_values <= 20 else ""
    return "number", f"{n_values} different whole numbers {limits}{hint}"


def _about_text(present: pa.ChunkedArray, n_values: int, unique: bool) -> str:
    if _all_name_images(present):
        return f"text, {n_values} names of image files: say image to read them"
    if unique:
        return f"text, {n_values} different values in {len(present)} rows: drop it if it names the rows"
    return f"text with {n_values} different values"


def names_images(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Those of some columns that hold names of image files."""
    return [name for name in columns if is_text(table[name].type) and _all_name_images(table[name].drop_null())]


def _all_name_images(text: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.match_substring_regex(text, IMAGE_NAME)).as_py())


def check_cells(table: pa.Table, names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> None:
    """Read every input column as its kind, a given one or a guess.

    Raises:
        PolytaskError: A column's cells do not fit its kind, or are infinite, told by their rows.
    """
    for name in names:
        kind = kinds.get(name) or _guess(name, table[name])
        if kind == "image":  # they are read once, and refused then
            continue
        if kind == "category" and name not in kinds:
            refuse_stray_text(name, table[name])
        Cells(name, kind, table[name])


def kinds_of_first(tables: Sequence[pa.Table], names: Sequence[str]) -> dict[str, ColumnKind]:
    """The kinds of the columns that hold other types in one table than in another: what the first with cells there holds.

    Example:
        >>> kinds_of_first([pa.table({"age": [3, 5]}), pa.table({"age": ["old", "4"]})], ["age"])
        {'age': 'number'}
    """
    kinds: dict[str, ColumnKind] = {}
    for name in names:
        columns = [decoded(table[name]) for table in tables if table[name].null_count < len(table)]
        numeric = all(pa.types.is_integer(column.type) or pa.types.is_floating(column.type) for column in columns)
        if len({column.type for column in columns}) > 1 and not numeric:
            kinds[name] = _guess(name, columns[0])
    return kinds


def names_rows(column: pa.ChunkedArray) -> Literal["surely", "perhaps", "no"]:
    """Whether a column's cells are names of rows, which tell nothing about a new row.

    "surely" are text that (almost) never repeats and a count of the rows: whole numbers, no two alike, that fill half of their
    span at least. "perhaps" are other whole numbers no two of which are alike. Of fewer than a hundred cells nothing is said.

    Example:
        >>> names_rows(pa.chunked_array([range(1, 201)])), names_rows(pa.chunked_array([[n**2 for n in range(200)]]))
        ('surely', 'perhaps')
    """
    cells = decoded(column)
    if holds_images(cells):
        return "no"
    cells = cells.drop_null()
    text = is_text(cells.type)
    if len(cells) < MANY or not (text or pa.types.is_integer(cells.type)):
        return "no"
    # Where some of many rows are alike, so are enough of them all: most columns are told by their head.
    head = cells.slice(0, HEAD_ROWS)
    if pc.count_distinct(head).as_py() <= NEARLY_ALL * len(head):
        return "no"
    n_values = pc.count_distinct(cells).as_py()
    if text:
        return "surely" if n_values > NEARLY_ALL * len(cells) else "no"
    if n_values < len(cells):
        return "no"
    span = pc.min_max(cells).as_py()
    return "surely" if span["max"] - span["min"] < 2 * len(cells) else "perhaps"


def image_columns(table: pa.Table, names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> list[str]:
    """The columns of images among ``names``: those that are said to be, and those whose type says so."""
    return [name for name in names if kinds.get(name) == "image" or (name not in kinds and holds_images(table[name]))]


def _read_here(name: str, column: pa.ChunkedArray) -> tuple[ImageFeature, Pictures]:
    form = form_of(name, column, Images())
    return form, read_pictures(column, form)


def _made_up_images(n_rows: int, feature: ImageFeature) -> NDArray[np.uint8]:
    places = np.arange(n_rows * math.prod(feature.shape)).reshape(n_rows, *feature.shape)
    return (places * 37 % 251).astype(np.uint8)


def _require(table: pa.Table, names: Sequence[str]) -> None:
    lacking = [name for name in names if name not in table.column_names]
    if lacking:
        columns = "1 input column" if len(lacking) == 1 else f"{len(lacking)} input columns"
        what = f"the table lacks {columns}: {listed(map(repr, lacking))}"
        raise PolytaskError(what, mend=did_you_mean(lacking[0], table.column_names))


def _guess(name: str, column: pa.ChunkedArray) -> ColumnKind:
    try:
        return describe_column(column)[0]
    except PolytaskError as error:
        raise error.inside(f"column {name!r}") from None

"""The Source contract: where rows come from. The currency inside polytask is a ``pyarrow.Table`` of plain types."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from polytask.component import Component
from polytask.errors import PolytaskError, counted, did_you_mean, listed
from polytask.maps import arrays_of, tensors

CHANNELS = (1, 3, 4)
HELD_OUT = ("validation", "test")
PIECE_ROWS = 1 << 16


class Source(Component, family="sources"):
    """Where rows come from: a file, a data frame, arrays.

    Attributes:
        name: What the source is called in messages and in ``--task maths=student-mat.csv:G3``; the file's stem by default.
        inputs: The columns to use as inputs; None means all but the targets and the dropped ones.
        validation: The source's own validation part, of the same type as its main datum; None lets the split draw one.
        test: The source's own test part, likewise.

    Class attributes:
        datum: The field that holds the main datum, which ``validation`` and ``test`` take the place of.
        suffixes: The file name endings that mean this kind, such as ``(".csv",)``.
    """

    name: str | None = None
    inputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    validation: Any = None
    test: Any = None

    datum: ClassVar[str] = "path"
    suffixes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self) -> pa.Table:
        """The main datum as a table of plain types (see ``plain_table``).

        Raises:
            PolytaskError: The data are not there or cannot be read.
        """

    def read_other(self, datum: Any, needed: Collection[str]) -> pa.Table:
        """Other rows, such as those to predict, read with the same options; ``needed`` are the columns that they should have.

        Raises:
            PolytaskError: The data are not there or cannot be read.
        """
        return self.with_datum(datum).read()

    def read_in_pieces(self, datum: Any, needed: Collection[str]) -> Iterator[pa.Table]:
        """As ``read_other``, one table after the other, all of the same types: for files that are larger than memory.

        Columns that are not needed may be left out. A kind that cannot do it gives one table with all rows.

        Raises:
            PolytaskError: The data are not there or cannot be read.
        """
        yield self.read_other(datum, needed)

    def with_datum(self, datum: Any, **options: Any) -> Self:
        """The same source with another main datum, and nothing held out."""
        return self.model_copy(update={**dict.fromkeys(HELD_OUT), self.datum: datum, **options})

    @property
    def images(self) -> tuple[str, ...]:
        """The columns that are known to hold images, or names of image files, before any row is read."""
        return ()

    @property
    def clips(self) -> bool:
        """Whether one of ``images`` is known to have several frames before any row is read."""
        return False

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that there are to be learned, where the kind of source tells: what is asked for where nothing else is."""
        return ()

    def folder_of(self, part: str) -> Path | None:
        """Where the relative paths in the cells of a part begin; None for the working directory."""
        return None

    @property
    def label(self) -> str:
        """What messages call this source: its name, else the file's stem, else its kind."""
        return self.name or self.kind

    def parts(self) -> dict[str, pa.Table]:
        """The table of each part the source brings: "main", and "validation" and "test" where given.

        A held-out part is read with the same options and has the main part's columns, in their order.

        Raises:
            PolytaskError: A held-out part lacks columns of the main part, or one of them cannot be read.

        Example:
            >>> from polytask.sources import Frame
            >>> source = Frame({"area": [80, 120], "price": [1.5, 2.5]}, test={"price": [3.0], "area": [90]})
            >>> {part: table.to_pydict() for part, table in source.parts().items()}
            {'main': {'area': [80, 120], 'price': [1.5, 2.5]}, 'test': {'area': [90], 'price': [3.0]}}
        """
        tables = {"main": self.read()}
        columns = tables["main"].column_names
        for part in HELD_OUT:
            if (datum := getattr(self, part)) is not None:
                table = self.with_datum(datum).read()
                lacking = [column for column in columns if column not in table.column_names]
                if lacking:
                    what = f"the {part} part lacks {len(lacking)} of the main part's {len(columns)} columns: {listed(lacking)}"
                    raise PolytaskError(what, where=self.label, mend=did_you_mean(lacking[0], table.column_names))
                tables[part] = table.select(columns)
        return tables

    def anchored(self) -> Self:
        """The same source wherever the process goes on: with absolute paths where it has any."""
        return self

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of the rows of all parts: the same rows and column names give the same digest."""
        digest = hashlib.sha256()
        for part, table in self.parts().items():
            digest.update(f"{part} {table.num_rows}\n".encode())
            for name, column in zip(table.column_names, table.columns, strict=True):
                digest.update(f"{name!r} {column.type}\n".encode())
                _update_digest(digest, column)
        return digest.hexdigest()

    @classmethod
    def coerce(cls, value: object) -> Self:
        """As ``Component.coerce``; a string is a path here, since no source is complete with its kind alone.

        Example:
            >>> Source.coerce("houses.csv").label
            'houses'
        """
        return cast("Self", open_source(value)) if isinstance(value, str | Path) else super().coerce(value)

    @classmethod
    def from_value(cls, value: object) -> Self | None:
        """A data frame or a two-dimensional array as a source; None for anything else."""
        return None if _kind_of(value) is None else cast("Self", open_source(value))


def open_source(value: object, **options: Any) -> Source:
    """The source that fits a value.

    Args:
        value: A path (its suffix gives the kind, looking through ``.gz``; an unknown suffix means CSV), any data frame that
            narwhals knows (a lazy one is collected), a mapping of names to arrays, a NumPy array of rows or of images, or a
            source. A path to a folder, unless its name ends as a file's, means images, a folder for each class.
        **options: Fields of that source, such as ``delimiter=";"``.

    Raises:
        PolytaskError: The value is none of these, or an option does not fit.

    Example:
        >>> open_source("houses.parquet").kind, open_source("adult.data.gz", header=False).kind
        ('parquet', 'csv')
        >>> open_source({"area": [80, 120]}).read().num_rows
        2
    """
    if isinstance(value, Source):
        return type(value)(**{**dict(value), **options})
    kind = _kind_of(value)
    if kind is None:
        mend = "Give a path, a data frame, a mapping of names to 1-D arrays or a 2-D NumPy array."
        raise PolytaskError("not something rows can be read from", found=_type_name(value), mend=mend)
    found: Any = Source.find(kind)
    return cast("Source", found(**{found.datum: (value, {}) if isinstance(value, np.ndarray) else value}, **options))


def reader_of(data: object, known: Sequence[Source], name: str | None = None) -> tuple[Source, Source]:
    """New rows, and the source that knows how to read them: of the training sources that of this name, else one of their kind.

    It is the given one itself where it is a source, or no training source is of its kind.

    Raises:
        PolytaskError: The data are nothing that rows can be read from.
    """
    given = data if isinstance(data, Source) else open_source(data)
    alike = [item for item in known if item.kind == given.kind]
    if isinstance(data, Source) or not alike:
        return given, given
    named = [item for item in alike if item.label in (name, given.label)]
    return given, (named or alike)[0]


def like(original: object, table: pa.Table) -> Any:
    """A table as the same kind of data as ``original``.

    A data frame gives a frame of the same library (pandas keeps its index where the row counts agree, a lazy frame gives a lazy
    one), arrays give a dict of arrays, and a path, or a frame that holds a query rather than rows, gives the table itself.

    Example:
        >>> like({"area": np.array([80, 120])}, pa.table({"price": [1.5, 2.5]}))
        {'price': array([1.5, 2.5])}
    """
    if isinstance(original, np.ndarray | Mapping):
        return {name: _as_array(table[name]) for name in table.column_names}
    frame = _narwhals_frame(original)
    if frame is None:
        return table
    library = frame.implementation
    if not (library.is_pandas_like() or library.is_polars() or library.is_pyarrow()):
        return table
    answer = nw.from_arrow(_nested(table) if library.is_polars() else table, backend=library)
    if isinstance(frame, nw.LazyFrame):
        return answer.lazy().to_native()
    native = answer.to_native()
    if library.is_pandas_like():
        for name in table.column_names:
            if _holds_arrays(table[name]):  # else its cells have lost their shape
                native[name] = list(_as_array(table[name]))
        if len(frame) == len(answer):
            native.index = frame.to_native().index
    return native


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """A table as a list of rows, in which cells that are arrays are NumPy's.

    Example:
        >>> rows_of(pa.table({"price": [1.5, 2.5]}))
        [{'price': 1.5}, {'price': 2.5}]
    """
    arrays = {name: _as_array(table[name]) for name in table.column_names if _holds_arrays(table[name])}
    rows = table.drop_columns(list(arrays)).to_pylist() if len(arrays) < table.num_columns else [{} for _ in range(len(table))]
    return [{**row, **{name: cells[index] for name, cells in arrays.items()}} for index, row in enumerate(rows)]


def _holds_arrays(column: pa.ChunkedArray) -> bool:
    return isinstance(column.type, pa.FixedShapeTensorType)


def _as_array(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column as an array, ``[N, ...]`` where its cells are arrays; of objects where some of these are missing."""
    if not _holds_arrays(column):
        return cast("np.ndarray[Any, Any]", column.to_numpy())
    whole = column.combine_chunks()
    arrays = arrays_of(whole)
    if not whole.null_count:
        return arrays
    cells = np.empty(len(arrays), object)
    for row, there in enumerate(whole.is_valid().to_pylist()):
        cells[row] = arrays[row] if there else None
    return cells


def _nested(table: pa.Table) -> pa.Table:
    """The table with cells that are arrays as lists of lists, of fixed sizes."""
    for place, name in enumerate(table.column_names):
        kind = table[name].type
        if isinstance(kind, pa.FixedShapeTensorType):
            nested = kind.value_type
            for side in reversed(kind.shape):
                nested = pa.list_(nested, side)
            cells = [array if array is None else array.tolist() for array in _as_array(table[name])]
            table = table.set_column(place, name, pa.array(cells, nested))
    return table


def as_table(value: object) -> pa.Table:
    """A data frame, or a mapping of names to arrays, as a table of plain types that shares no memory with it.

    An array has one axis, or holds images or clips, as ``image_array`` says: bytes, booleans, whole numbers from 0 to 255, or
    fractions from 0 to 1, of which eight bits are kept.

    Raises:
        PolytaskError: It is neither, its arrays differ in length, or a column mixes types.

    Example:
        >>> as_table({"area": [80, None], "kind": ["flat", "house"]}).to_pydict()
        {'area': [80, None], 'kind': ['flat', 'house']}
    """
    if isinstance(value, Mapping):
        return _stacked({str(name): np.array(array) for name, array in value.items()})
    try:
        frame = _narwhals_frame(value)
        if frame is None:
            mend = "Give a data frame (pandas, polars, pyarrow, ...) or a mapping of names to 1-D arrays."
            raise PolytaskError("not a data frame", found=_type_name(value), mend=mend)
        eager = frame.collect() if isinstance(frame, nw.LazyFrame) else nw.maybe_reset_index(frame)
        return plain_table(eager.clone().to_arrow())
    except (pa.ArrowException, nw.exceptions.NarwhalsError, TypeError) as error:
        why = " ".join(str(error).split())
        mend = "Give each column a name of its own and one type."
        raise PolytaskError(f"the data frame cannot become a table: {why}", mend=mend) from error


def plain_table(table: pa.Table) -> pa.Table:
    """The table with plain types: int64, float64, bool, timestamp[us] (naive, UTC) and string.

    Every missing cell is null, NaN too; categories become their values, durations and times of day their seconds; nested
    columns stay as they are.

    Raises:
        PolytaskError: Two columns have the same name.

    Example:
        >>> table = plain_table(pa.table({"x": pa.array([1.5, float("nan")]), "y": pa.array([1, 2], pa.int8())}))
        >>> [str(field.type) for field in table.schema], table["x"].null_count
        (['double', 'int64'], 1)
    """
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        what = f"{counted(len(twice), 'column name')} more than once: {listed(map(repr, twice))}"
        raise PolytaskError(what, mend="Give each column its own name.")
    return pa.table([_plain(column) for column in table.columns], names=[str(name) for name in table.column_names])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """One column in its plain type."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if types.is_integer(kind):
        fits = kind != pa.uint64() or (pc.max(column).as_py() or 0) < 2**63
        return column.cast(pa.int64() if fits else pa.float64(), safe=False)
    if types.is_floating(kind) or types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return column.cast(pa.string())
    if types.is_fixed_size_list(kind) and types.is_fixed_size_list(kind.value_type):
        return _tensors(column)
    if types.is_date(kind) or types.is_timestamp(kind):
        return column.cast(pa.timestamp("us"), safe=False)
    if types.is_time(kind) or types.is_duration(kind):
        ticks = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]
        whole = column.cast(pa.int32()) if kind in (pa.time32("s"), pa.time32("ms")) else column.cast(pa.int64())
        return pc.divide(whole.cast(pa.float64()), float(ticks))
    return column


def _tensors(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cells that are lists of lists, of fixed sizes, as arrays; others as they are."""
    shape: list[int] = []
    kind = column.type
    while pa.types.is_fixed_size_list(kind):
        shape, kind = [*shape, kind.list_size], kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return column
    flat = column.combine_chunks()
    missing = flat.is_null().to_numpy(zero_copy_only=False)
    flat = flat.fill_null(pa.scalar(np.zeros(shape).tolist(), flat.type)) if missing.any() else flat
    for _ in shape:
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return pa.chunked_array([tensors(values, missing)])


def _stacked(arrays: dict[str, np.ndarray[Any, Any]]) -> pa.Table:
    """Arrays side by side, NaN and None as missing."""
    for name, array in arrays.items():
        if array.ndim not in (1, 3, 4, 5):
            found = f"shape {array.shape}"
            raise PolytaskError(f"column {name!r} is not one-dimensional", found=found, mend="Give one array per column.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        rows = listed(f"{name!r} has {length} rows" for name, length in lengths.items())
        raise PolytaskError("columns of different lengths", found=rows, mend="Give each column one value a row.")
    columns = []
    for name, array in arrays.items():
        try:
            cells = pa.array(array, from_pandas=True) if array.ndim == 1 else image_array(array, f"column {name!r}")
            columns.append(pa.chunked_array([cells]))
        except (pa.ArrowException, TypeError) as error:
            raise PolytaskError(f"column {name!r}: {error}", mend="Give each column one type.") from error
    return plain_table(pa.table(columns, names=list(arrays)))


def image_array(array: np.ndarray[Any, Any], where: str) -> pa.Array:
    """Images or clips as one array of a table.

    Args:
        array: ``[N, height, width]``, ``[N, height, width, channels]``, or clips ``[N, frames, height, width, channels]``, with
            1, 3 or 4 channels. Four axes whose last is more than 4 are grey clips ``[N, frames, height, width]``, but where the
            second is 1, 3 or 4, which may be channels in the wrong place: such clips need their last axis, ``x[..., None]``.
            See ``as_table`` for the numbers.
        where: What messages call it.

    Raises:
        PolytaskError: It has another shape, or numbers that are no brightness.

    Example:
        >>> image_array(np.zeros((5, 8, 8), bool), "x").type.shape
        [8, 8]
    """
    if array.ndim == 4 and array.shape[3] > max(CHANNELS) and array.shape[1] not in CHANNELS:
        array = array[..., None]
    if array.ndim not in (3, 4, 5) or 0 in array.shape[1:]:
        mend = "Give [N, height, width], [N, height, width, channels], or [N, frames, height, width, channels]."
        raise PolytaskError("not an array of images", where=where, found=f"shape {array.shape}", mend=mend)
    if array.ndim > 3 and array.shape[-1] not in CHANNELS:
        last = "x.transpose(0, 2, 3, 1)" if array.ndim == 4 else "x.transpose(0, 1, 3, 4, 2)"
        mend = f"Put the channels last: {last}." if array.shape[-3] in CHANNELS else ""
        if array.ndim == 4 and array.shape[3] > max(CHANNELS):
            mend = f"{mend} Give grey clips [N, frames, height, width] a last axis: x[..., None]."
        what = "the last axis of images is their channels: 1, 3 or 4"
        raise PolytaskError(what, where=where, found=f"shape {array.shape}", mend=mend)
    if array.dtype != np.uint8:
        number, scale = array.dtype.kind in "biuf", 255.0 if array.dtype.kind in "fb" else 1.0
        low, high = (float(array.min()), float(array.max())) if number and array.size else (0.0, 0.0)
        if not (number and low >= 0 and high * scale <= 255):  # NaN is neither
            found = f"{array.dtype} from {low:g} to {high:g}" if number else str(array.dtype)
            mend = "Give uint8, booleans, whole numbers from 0 to 255, or fractions from 0 to 1."
            raise PolytaskError("numbers that are no brightness", where=where, found=found, mend=mend)
        array = np.rint(array * scale).astype(np.uint8)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def _narwhals_frame(value: object) -> nw.DataFrame[Any] | nw.LazyFrame[Any] | None:
    try:
        return cast("nw.DataFrame[Any] | nw.LazyFrame[Any]", nw.from_native(cast("Any", value)))
    except TypeError:
        return None


def _kind_of(value: object) -> str | None:
    """The kind of source that reads a value; None where none does."""
    if isinstance(value, str | Path):
        path = Path(value).expanduser()
        name, kinds = path.name.lower().removesuffix(".gz"), Source.kinds()
        if (ending := Path(name).suffix[1:]) in kinds:
            return ending
        unknown = "folder" if path.is_dir() else "csv"
        return next((kind for kind in kinds if name.endswith(Source.find(kind).suffixes or "\0")), unknown)
    if isinstance(value, np.ndarray):
        return "arrays"
    return "frame" if isinstance(value, Mapping) or _narwhals_frame(value) is not None else None


def _update_digest(digest: hashlib._Hash, column: pa.ChunkedArray) -> None:
    """Feed a column's cells, whatever their chunks and whatever lies beneath its nulls."""
    digest.update(np.packbits(pc.is_valid(column).to_numpy()).tobytes())
    if column.type in (pa.int64(), pa.float64(), pa.bool_()):
        digest.update(pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy().tobytes())
    elif isinstance(column.type, pa.FixedShapeTensorType):
        for chunk in column.chunks:
            known = chunk.drop_null() if chunk.null_count else chunk
            digest.update(memoryview(known.to_numpy_ndarray()))
    elif pa.types.is_timestamp(column.type):
        digest.update(pc.fill_null(column.cast(pa.int64()), 0).to_numpy().tobytes())
    else:
        for chunk in column.chunks:
            digest.update("".join(f"{len(cell)}:{cell}" for cell in map(str, chunk.to_pylist())).encode())


def _type_name(value: object) -> str:
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{shape}"


def tables_of(tables: Iterable[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Tables of ``n_rows`` rows each but for the last: cut where one table would be, a batch holds the same rows."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while (count := sum(map(len, held))) > n_rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, n_rows)
            held = [joined.slice(n_rows)] if count > n_rows else []
    if held:
        yield pa.concat_tables(held)

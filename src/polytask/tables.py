"""Data frames and arrays as tables of plain types, and back as what was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polytask.errors import PolytaskError, counted, listed
from polytask.maps import arrays_of, tensors

CHANNELS = (1, 3, 4)


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
    frame = narwhals_frame(original)
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
        frame = narwhals_frame(value)
        if frame is None:
            mend = "Give a data frame (pandas, polars, pyarrow, ...) or a mapping of names to 1-D arrays."
            raise PolytaskError("not a data frame", found=type_name(value), mend=mend)
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


def narwhals_frame(value: object) -> nw.DataFrame[Any] | nw.LazyFrame[Any] | None:
    """A value as narwhals knows it; None where it is no data frame."""
    try:
        return cast("nw.DataFrame[Any] | nw.LazyFrame[Any]", nw.from_native(cast("Any", value)))
    except TypeError:
        return None


def type_name(value: object) -> str:
    """What messages call a value that is something else than was wanted."""
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

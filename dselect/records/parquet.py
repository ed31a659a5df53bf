"""Read Parquet: a row becomes a line of JSON, all its columns with it.

NaN and infinities are written as such, which makes the line a bad line wherever it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from dselect.errors import DselectError
from dselect.records import arrow

MAGIC = b"PAR1"

_BATCH = 4 << 20  # bytes decoded at a time, more or less; one row at least
_ROWS = 4096


def lines(path: Path, name: str, consumed: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the rows of a Parquet file as lines of JSON, some at a time; memory does not grow with the file.

    `consumed` is told of progress in bytes on disk. Raises DselectError for a damaged file, a column that two share
    the name of, and text that is not UTF-8.
    """
    pa, pq = libraries(name)
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True) as file:
            if twice := _named_twice(file.schema_arrow):
                raise DselectError(f'two columns are named "{twice}"', where=name, way_out="rename one")
            size, rows = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), 0
            total = file.metadata.num_rows
            batch_rows = max(1, min(_ROWS, _BATCH * total // max(size, 1)))
            on_disk = path.stat().st_size
            for batch in file.iter_batches(batch_rows, use_threads=False):
                yield _encoded(batch, name, rows)
                before, rows = rows, rows + batch.num_rows
                consumed(on_disk * rows // total - on_disk * before // total)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error, name) from error


def fields(path: Path, name: str) -> dict[str, Any] | None:
    """Return the fields of a Parquet file by name, without their metadata; None if it is another kind of file."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
    pa, pq = libraries(name)
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error, name) from error
    return {field.name: field.remove_metadata() for field in schema}


def libraries(name: str) -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module, or raise DselectError for the file that needs them."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DselectError("Parquet needs pyarrow", where=name, way_out="pip install 'dselect[parquet]'") from error
    return pa, pq


def _named_twice(fields: Any) -> str | None:
    """Return a name that two columns share, or two members of a struct; None if there is none."""
    from pyarrow import types

    seen = set()
    for field in fields:
        if field.name in seen:
            return str(field.name)
        seen.add(field.name)
        kind = field.type
        if types.is_nested(kind):
            found = _named_twice([kind.field(i) for i in range(kind.num_fields)])
            if found is not None:
                return found
    return None


def _encoded(batch: Any, name: str, rows: int) -> bytes:
    """Return a record batch as lines; `rows` came before it."""
    names = batch.schema.names
    try:
        columns = [arrow.values(column) for column in batch.columns]
    except UnicodeDecodeError as error:
        raise _undecodable(batch, name, rows) from error
    records = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if not names:
        records = [{} for _ in range(batch.num_rows)]
    if all(arrow.finite(column) for column in batch.columns):
        return b"".join([orjson.dumps(record) + b"\n" for record in records])
    # orjson would make a null of NaN
    return b"".join(
        [json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for record in records]
    )


def _undecodable(batch: Any, name: str, rows: int) -> DselectError:
    """Return what to say about the first text that is not UTF-8."""
    for position in range(batch.num_rows):
        for field, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                arrow.values(column.slice(position, 1))
            except UnicodeDecodeError:
                return DselectError(f'the column "{field}" is not UTF-8', where=f"{name}:{rows + position + 1}")
    raise AssertionError("every row decodes by itself")


def _damaged(error: Exception, name: str) -> DselectError:
    reason = str(error).split("\n")[0] or type(error).__name__
    return DselectError(f"truncated or corrupt Parquet: {reason}", where=name, way_out="copy or make the file again")

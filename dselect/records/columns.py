"""Write Parquet: lines of JSON become columns, under the final name only when complete.

Where every input is Parquet, its columns keep their types, and what is written must read back as the same JSON. Other
fields get the type that holds every value of the whole output: integers and floats are float64 together, objects have
all members that any of them has, and what does not go together (a number here, a string there) is refused by name.
So the lines are kept, compressed, until all are known. Row groups are cut at the first line end at or after 16 MiB of
lines: the bytes depend on the lines alone.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from dselect.errors import DselectError
from dselect.records import arrow, parquet
from dselect.records.publishing import TemporaryFile, cannot_write
from dselect.records.sources import Source

ROW_GROUP = 16 << 20


class ColumnFile:
    """One output of records in columns: takes lines as `LineFile` does."""

    def __init__(self, path: Path, sources: Sequence[Source]) -> None:
        self.path = path
        self._pa, self._pq = parquet.libraries(str(path))
        self._known = _schema_of(sources)
        self._types: dict[str, Any] = {}  # of the other fields, so far
        self._held: list[bytes] = []
        self._size = 0
        self._groups: list[int] = []  # compressed bytes of each
        self._temporary = TemporaryFile(path)
        self._kept: BinaryIO = tempfile.TemporaryFile(dir=path.parent, prefix=f".{path.name}.")

    def write(self, data: bytes) -> None:
        """Take whole lines."""
        self._held.append(data)
        self._size += len(data)
        if self._size < ROW_GROUP:
            return
        whole = b"".join(self._held)
        start = 0
        while len(whole) - start >= ROW_GROUP:
            end = whole.index(b"\n", start + ROW_GROUP - 1) + 1
            self._keep(whole[start:end])
            start = end
        self._held, self._size = [whole[start:]], len(whole) - start

    def finish(self) -> None:
        """Write all row groups and give the file its name."""
        if rest := b"".join(self._held):
            self._keep(rest)
        self._held = []
        fields = [*self._known.values(), *(self._pa.field(name, kind) for name, kind in self._types.items())]
        schema = self._pa.schema(fields)
        try:
            with (
                io.BufferedWriter(_Unclosed(self._temporary.file)) as file,
                self._pq.ParquetWriter(file, schema, compression="zstd") as writer,
            ):
                for records in self._kept_records():
                    columns = [self._column(records, field) for field in schema]
                    writer.write_table(self._pa.Table.from_arrays(columns, schema=schema), len(records))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        except self._pa.ArrowException as error:
            raise DselectError(str(error).split("\n")[0], where=str(self.path), way_out=_WAY_OUT) from error
        self._kept.close()
        self._temporary.commit()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._kept.close()
        self._temporary.discard()

    def _keep(self, lines: bytes) -> None:
        """Learn the types of some lines, and keep them."""
        self._learn([orjson.loads(line) for line in lines.split(b"\n")[:-1]])
        data = zstandard.ZstdCompressor(level=1).compress(lines)
        try:
            self._kept.write(data)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._groups.append(len(data))

    def _kept_records(self) -> Iterator[list[dict[str, Any]]]:
        self._kept.seek(0)
        for size in self._groups:
            lines = zstandard.ZstdDecompressor().decompress(self._kept.read(size))
            yield [orjson.loads(line) for line in lines.split(b"\n")[:-1]]

    def _learn(self, records: Sequence[dict[str, Any]]) -> None:
        for name in dict.fromkeys(name for record in records for name in record if name not in self._known):
            try:
                kind = self._pa.array([record.get(name) for record in records]).type
                both = [self._pa.schema([(name, known)]) for known in (self._types.get(name, kind), kind)]
                self._types[name] = self._pa.unify_schemas(both, promote_options="permissive").field(name).type
            except (self._pa.ArrowException, OverflowError) as error:
                raise self._mixed(name, error) from error

    def _column(self, records: Sequence[dict[str, Any]], field: Any) -> Any:
        found = [record.get(field.name) for record in records]
        if field.name not in self._known:
            try:
                return self._pa.array(found, field.type)
            except (self._pa.ArrowException, OverflowError) as error:
                raise self._mixed(field.name, error) from error
        try:
            return arrow.array(found, field.type)
        except ValueError as error:
            raise DselectError(
                f'the field "{field.name}" does not go into the type it has in the input, {field.type}: {error}',
                where=str(self.path),
                way_out=_WAY_OUT,
            ) from error

    def _mixed(self, name: str, error: Exception) -> DselectError:
        reason = str(error).split("\n")[0]
        return DselectError(
            f'no column type holds every value of the field "{name}": {reason}', where=str(self.path), way_out=_WAY_OUT
        )


_WAY_OUT = "write .jsonl.zst instead"


class _Unclosed(io.RawIOBase):
    """A file that its wrappers cannot close: it is renamed while open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


def _schema_of(sources: Sequence[Source]) -> dict[str, Any]:
    """Return the fields, by name, that all inputs agree on; none unless every input is Parquet."""
    agreed: dict[str, Any] = {}
    contested = set()
    for source in sources:
        fields = parquet.fields(source.path, source.name) if source.path and source.size is not None else None
        if fields is None:
            return {}
        for name, field in fields.items():
            if agreed.setdefault(name, field) != field:
                contested.add(name)
        if source is not sources[0]:
            contested |= agreed.keys() ^ fields.keys()
    return {name: field for name, field in agreed.items() if name not in contested}

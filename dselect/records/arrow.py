"""Arrow's values as JSON has them, and back.

Numbers, strings, booleans, lists, structs and nulls are JSON's own. What JSON has no word for becomes a string: dates,
times and timestamps in ISO 8601 (with a time zone: in UTC, with a Z), decimals with all their digits, binary in base64.
Durations are integers in the column's unit, maps are lists of [key, value].
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np


def values(column: Any) -> list[Any]:
    """Return a column as values that JSON has words for."""
    if _is_plain(column.type):
        found: list[Any] = column.to_pylist()
        return found
    return [_value(scalar) for scalar in column]


def _is_plain(kind: Any) -> bool:
    """Tell whether the values of a type go into JSON as Python has them."""
    from pyarrow import types

    if types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    if _is_list(kind) or types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return bool(
        types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_float32(kind)
        or types.is_float64(kind) or _is_text(kind)
    )  # fmt: skip


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _value(scalar: Any) -> Any:
    """Return one value, whatever its type, as JSON has it."""
    from pyarrow import types

    kind = scalar.type
    if not scalar.is_valid:
        return None
    if _is_plain(kind):
        return scalar.as_py()
    if types.is_struct(kind):
        return {key: _value(member) for key, member in scalar.items()}
    if types.is_map(kind):
        return [[_value(pair["key"]), _value(pair["value"])] for pair in scalar.values]
    if _is_list(kind):
        return [_value(member) for member in scalar.values]
    if types.is_dictionary(kind):
        return _value(scalar.value)
    if types.is_timestamp(kind):
        return _iso(scalar.value, kind.unit) + ("Z" if kind.tz else "")
    if types.is_date(kind):
        return _iso(scalar.value, "D" if types.is_date32(kind) else "ms").split("T")[0]
    if types.is_time(kind):
        return _iso(scalar.value, kind.unit).split("T")[1]
    if types.is_duration(kind):
        return scalar.value
    if hasattr(kind, "storage_type"):
        return _value(scalar.value)
    value = scalar.as_py()
    if types.is_float16(kind):
        return float(value)
    if types.is_decimal(kind):
        return str(value)
    return base64.b64encode(value).decode()  # of Parquet's types only binary is left


def _iso(value: int, unit: str) -> str:
    return str(np.datetime_as_string(np.int64(value).view(f"M8[{unit}]")))


def finite(column: Any) -> bool:
    """Tell whether there is no NaN or infinity among the numbers of a column."""
    from pyarrow import compute, types

    kind = column.type
    if types.is_floating(kind):
        return compute.all(compute.is_finite(column.cast("float64"))).as_py() is not False
    if types.is_struct(kind):
        return all(finite(part) for part in column.flatten())
    if types.is_map(kind):
        return finite(column.keys) and finite(column.items)
    if _is_list(kind):
        return finite(column.flatten())
    if types.is_dictionary(kind):
        return finite(column.dictionary)
    if hasattr(kind, "storage_type"):
        return finite(column.storage)
    return True


def array(found: Sequence[Any], kind: Any) -> Any:
    """Return JSON values as a column of this type; ValueError if it would not give the same values back."""
    import pyarrow as pa

    try:
        column = pa.array([_stored(value, kind) for value in found] if not _is_plain(kind) else found, kind)
        same = values(column) == found
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, pa.ArrowException) as error:
        raise ValueError(str(error).split("\n")[0]) from error
    if not same:  # a float cut to an integer, a member of an object dropped: Arrow does so without a word
        wrong = next(value for value, back in zip(found, values(column), strict=True) if value != back)
        raise ValueError(f"{wrong!r} would be changed")
    return column


def _stored(value: Any, kind: Any) -> Any:
    """Return a JSON value as Arrow takes it for this type."""
    from pyarrow import types

    if value is None or _is_plain(kind) or types.is_duration(kind):
        return value
    if types.is_struct(kind):
        members = [kind.field(i) for i in range(kind.num_fields)]
        return {member.name: _stored(value[member.name], member.type) for member in members}
    if types.is_map(kind):
        return [(_stored(key, kind.key_type), _stored(item, kind.item_type)) for key, item in value]
    if _is_list(kind):
        return [_stored(member, kind.value_type) for member in value]
    if types.is_dictionary(kind):
        return _stored(value, kind.value_type)
    if hasattr(kind, "storage_type"):
        return _stored(value, kind.storage_type)
    if types.is_timestamp(kind):
        return _count(value.removesuffix("Z"), kind.unit)
    if types.is_date(kind):
        return _count(value, "D" if types.is_date32(kind) else "ms")
    if types.is_time(kind):
        return _count(f"1970-01-01T{value}", kind.unit)
    if types.is_float16(kind):
        return np.float16(value)
    return Decimal(value) if types.is_decimal(kind) else base64.b64decode(value, validate=True)


def _count(iso: str, unit: str) -> int:
    return int(np.array(iso, f"M8[{unit}]").astype(np.int64))

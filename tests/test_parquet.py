"""Parquet in and out: every column survives, what JSON cannot hold is said, nothing appears before it is complete."""

import datetime as dt
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import lines, make_pool, make_target, read_records, write_records

MOMENT = dt.datetime(2024, 2, 29, 12, 30, 1, 5)  # noqa: DTZ001  a column without a time zone
ISO = "2024-02-29T12:30:01.000005"
# earlier ones cannot read what they have written
NO_VECTOR = None if int(pa.__version__.split(".")[0]) >= 26 else [0.0, 0.0]
COLUMNS = {
    "text": (pa.string(), ["stir the onions", "return None", "é"], ["stir the onions", "return None", "é"]),
    "int8": (pa.int8(), [-1, 2, None], [-1, 2, None]),
    "uint64": (pa.uint64(), [2**64 - 1, None, 0], [2**64 - 1, None, 0]),
    "int64": (pa.int64(), [-(2**63), 2**53 + 1, None], [-(2**63), 2**53 + 1, None]),
    "float16": (pa.float16(), [np.float16(0.5), None, np.float16(2)], [0.5, None, 2.0]),
    "float32": (pa.float32(), [0.1, None, 2], [0.10000000149011612, None, 2.0]),
    "float64": (pa.float64(), [0.1, None, 1e300], [0.1, None, 1e300]),
    "bool": (pa.bool_(), [True, None, False], [True, None, False]),
    "null": (pa.null(), [None] * 3, [None] * 3),
    "large": (pa.large_string(), ["x", None, ""], ["x", None, ""]),
    "category": (pa.dictionary(pa.int32(), pa.string()), ["x", None, "x"], ["x", None, "x"]),
    "list": (pa.list_(pa.int64()), [[1, None], None, []], [[1, None], None, []]),
    "vector": (pa.list_(pa.float32(), 2), [[0.5, 1], NO_VECTOR, [2, 3]], [[0.5, 1.0], NO_VECTOR, [2.0, 3.0]]),
    "date": (pa.date32(), [MOMENT.date(), None, dt.date(1, 1, 1)], ["2024-02-29", None, "0001-01-01"]),
    "early": (pa.timestamp("ms"), [0, None, -1], ["1970-01-01T00:00:00.000", None, "1969-12-31T23:59:59.999"]),
    "moment": (pa.timestamp("us"), [MOMENT, None, MOMENT], [ISO, None, ISO]),
    "zoned": (pa.timestamp("ms", "Europe/Berlin"), [1, None, 0],
              ["1970-01-01T00:00:00.001Z", None, "1970-01-01T00:00:00.000Z"]),
    "nanos": (pa.timestamp("ns"), [1, None, 10**9],
              ["1970-01-01T00:00:00.000000001", None, "1970-01-01T00:00:01.000000000"]),
    "time": (pa.time64("ns"), [1, None, 0], ["00:00:00.000000001", None, "00:00:00.000000000"]),
    "duration": (pa.duration("us"), [dt.timedelta(seconds=1), None, 0], [1_000_000, None, 0]),
    "decimal": (pa.decimal128(10, 2), [decimal.Decimal("1.50"), None, decimal.Decimal(-2)], ["1.50", None, "-2.00"]),
    "binary": (pa.binary(), [b"\xff\x00", None, b""], ["/wA=", None, ""]),
    "fixed": (pa.binary(2), [b"ab", None, b"cd"], ["YWI=", None, "Y2Q="]),
    "map": (pa.map_(pa.string(), pa.date32()), [[("k", 0)], None, []], [[["k", "1970-01-01"]], None, []]),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.timestamp("ms")))]),
        [{"a": 1, "b": [0, None]}, None, {"a": None, "b": None}],
        [{"a": 1, "b": ["1970-01-01T00:00:00.000", None]}, None, {"a": None, "b": None}],
    ),
    "people": (
        pa.list_(pa.struct([("name", pa.string()), ("key", pa.binary())])),
        [[{"name": "x", "key": b"q"}], [], None],
        [[{"name": "x", "key": "cQ=="}], [], None],
    ),
}  # fmt: skip


ALL = ["--keep", "100%"]


def every_type():
    return pa.table({name: pa.array(values, kind) for name, (kind, values, _) in COLUMNS.items()})


def table(records):
    return pa.Table.from_pylist(records)


@pytest.fixture
def columns(tmp_path):
    """Write a Parquet file with a column of every type, in row groups of two."""
    pq.write_table(every_type(), tmp_path / "in.parquet", row_group_size=2)
    return tmp_path / "in.parquet"


def test_a_row_is_a_record_with_all_its_columns(dselect, columns):
    found = dselect("select", columns, "--keep", 3).records
    assert found == [{name: column[2][row] for name, column in COLUMNS.items()} for row in range(3)]
    assert list(found[0]) == list(COLUMNS)


def test_every_column_is_the_same_after_dsir(dselect, columns, target, tmp_path):
    dselect("dsir", columns, "-t", target, "-o", "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.names == [*COLUMNS, "dsir"]
    assert found.schema.field("dsir").type == pa.float64()
    assert found.select(list(COLUMNS)).equals(every_type())
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    scores = [record["dsir"] for record in dselect("dsir", columns, "-t", target).records]
    assert found.column("dsir").to_pylist() == scores


def test_a_folder_of_parquet_becomes_a_folder_of_parquet(dselect, target, tmp_path):
    for name, kind in (("a/x", pa.int32()), ("y", pa.int64())):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        rows = table(make_pool(6)).append_column("n", pa.array(range(6), kind))
        pq.write_table(rows, tmp_path / "in" / f"{name}.parquet")
    write_records(tmp_path / "in" / "z.jsonl.zst", make_pool(2))
    dselect("dsir", "in", "-t", target, "-o", "out/")
    assert pq.read_table(tmp_path / "out" / "a" / "x.parquet").schema.field("n").type == pa.int32()
    assert pq.read_table(tmp_path / "out" / "y.parquet").schema.field("n").type == pa.int64()
    assert len(read_records(tmp_path / "out" / "z.jsonl.zst")) == 2
    # in one file, the column whose type they do not agree on has one that holds both
    dselect("dsir", "in/a", "in/y.parquet", "-t", target, "-o", "one.parquet")
    one = pq.read_table(tmp_path / "one.parquet")
    assert one.column("n").to_pylist() == [*range(6), *range(6)]


def test_parquet_gives_the_scores_that_jsonl_gives(dselect, pool, target, tmp_path):
    pq.write_table(table(make_pool()), tmp_path / "p.parquet", row_group_size=70)
    pq.write_table(table(make_target()), tmp_path / "t.parquet")
    expected = dselect("dsir", pool, "-t", target, "--keep", "10%B").records
    assert dselect("dsir", "p.parquet", "-t", "t.parquet", "--keep", "10%B", "-j", 2).records == expected


def test_the_bytes_depend_on_the_lines_alone(dselect, target, tmp_path):
    """Enough for several row groups; and the same from JSON Lines, whose types are found."""
    rows = table([{"id": str(i), "text": f"{i} garlic salt " * 6000, "n": i} for i in range(400)])
    pq.write_table(rows, tmp_path / "p.parquet", row_group_size=130)
    for jobs in (1, 3):
        dselect("dsir", "p.parquet", "-t", target, "-o", f"{jobs}.parquet", "-j", jobs)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    written = pq.ParquetFile(tmp_path / "1.parquet")
    assert written.num_row_groups > 1
    assert written.read(["id", "text", "n"]).equals(rows)
    dselect("dsir", "p.parquet", "-t", target, "-o", "lines.jsonl.zst")
    dselect("select", "lines.jsonl.zst", *ALL, "-o", "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()


def test_types_are_found_over_all_lines_not_the_first(dselect, tmp_path):
    filler = [{"text": "x" * 100_000, "late": None, "n": 1, "deep": {"a": 1}} for _ in range(200)]
    last = {"text": "y", "late": ["a"], "n": 2.5, "deep": {"b": None, "c": True}, "new": 2**53 + 1}
    dselect("select", *ALL, "-o", "out.parquet", stdin=lines([*filler, last]))
    found = pq.read_table(tmp_path / "out.parquet")
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups > 1
    assert found.schema.field("n").type == pa.float64()
    assert found.slice(200).to_pylist() == [{**last, "deep": {"a": None, **last["deep"]}}]
    assert found.slice(0, 1).to_pylist()[0]["new"] is None


@pytest.mark.parametrize(
    "values",
    [[1, "a"], [[1], "a"], [True, 1], [{"a": 1}, {"a": "x"}], [2**53 + 1, 0.5], [2**63, 1], [{}, {}]],
    ids=str,
)
def test_values_that_no_column_holds_are_refused_by_name(values, dselect, tmp_path):
    records = [{"text": "a" * 9_000_000, "odd": value} for value in values * 2]  # in one row group, and in several
    failed = dselect("select", *ALL, "-o", "out.parquet", stdin=lines(records), status=1)
    assert failed.stderr.startswith("dselect: out.parquet: ")
    assert "odd" in failed.stderr
    assert ".jsonl.zst" in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_the_input_s_type_does_not_hold_is_refused(dselect, target, tmp_path):
    pq.write_table(table([{"text": "garlic salt", "dsir": 1}]), tmp_path / "p.parquet")
    failed = dselect("dsir", "p.parquet", "-t", target, "--overwrite", "-o", "out.parquet", status=1)
    assert 'the field "dsir" does not go into the type it has in the input, int64' in failed.stderr
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("deep", [False, True], ids=["column", "member"])
def test_what_json_has_no_number_for_is_a_bad_line(value, deep, dselect, tmp_path):
    odd = [{"x": [float(value)]} if deep else float(value), None]
    pq.write_table(table([{"text": t, "odd": o} for t, o in zip("ab", odd, strict=True)]), tmp_path / "p.parquet")
    failed = dselect("select", "p.parquet", "--keep", 2, status=1)
    assert failed.stderr.startswith("dselect: p.parquet:1: not JSON")
    assert "NaN" in failed.stderr
    run = dselect("select", "p.parquet", "--keep", 2, "--bad-lines", "skip", "--rejects", "bad")
    assert [record["text"] for record in run.records] == ["b"]
    assert json.loads((tmp_path / "bad").read_text())["text"] == "a"


def test_a_row_without_text_is_named_by_its_number(dselect, tmp_path):
    records = [{"text": "a"}] * 5000 + [{"text": None}]
    pq.write_table(table(records), tmp_path / "p.parquet", row_group_size=1000)
    said = dselect("select", "p.parquet", *ALL, status=1).stderr
    assert said.startswith('dselect: p.parquet:5001: the field "text" is null')


def test_text_that_is_not_utf8_is_named_by_its_row(dselect, tmp_path):
    broken = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "p.parquet")
    failed = dselect("select", "p.parquet", *ALL, status=1)
    assert 'p.parquet:2: the column "text" is not UTF-8' in failed.stderr


def test_two_columns_of_one_name_are_refused(dselect, tmp_path):
    pq.write_table(
        pa.table([pa.array(["a"]), pa.array([1]), pa.array([2])], ["text", "n", "n"]), tmp_path / "p.parquet"
    )
    assert 'two columns are named "n"' in dselect("select", "p.parquet", *ALL, status=1).stderr


@pytest.mark.parametrize("cut", [4, 100, -1, -8, -200], ids=str)
def test_a_file_cut_short_stops_the_run(cut, dselect, target, tmp_path):
    pq.write_table(table(make_pool()), tmp_path / "p.parquet")
    whole = (tmp_path / "p.parquet").read_bytes()
    (tmp_path / "p.parquet").write_bytes(whole[:cut])
    failed = dselect("dsir", "p.parquet", "-t", target, "-o", "out.parquet", status=1)
    assert failed.stderr.startswith("dselect: p.parquet: truncated or corrupt Parquet")
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "out.parquet").exists()


def test_a_damaged_page_stops_the_run(dselect, target, tmp_path):
    pq.write_table(table(make_pool()), tmp_path / "p.parquet", compression="zstd", write_page_checksum=True)
    data = bytearray((tmp_path / "p.parquet").read_bytes())
    for at in range(200, 400):
        data[at] ^= 0x55
    (tmp_path / "p.parquet").write_bytes(data)
    failed = dselect("dsir", "p.parquet", "-t", target, "-o", "out/", status=1)
    assert failed.stderr.startswith("dselect: p.parquet: truncated or corrupt Parquet")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_only_named_parquet_is_refused(dselect, pool, tmp_path):
    (tmp_path / "p.parquet").write_bytes(pool.read_bytes())
    assert "not a Parquet file" in dselect("select", "p.parquet", *ALL, status=1).stderr
    (tmp_path / "p.parquet").write_bytes(b"")
    assert "not a Parquet file" in dselect("select", "p.parquet", *ALL, status=1).stderr


def test_parquet_in_a_pipe_is_refused(dselect, columns):
    assert "Parquet cannot be read from a pipe" in dselect("select", *ALL, stdin=columns.read_bytes(), status=1).stderr


def test_no_rows_are_no_records(dselect, columns, target, tmp_path):
    pq.write_table(every_type().slice(0, 0), tmp_path / "p.parquet")
    assert dselect("select", "p.parquet", *ALL).stdout == b""
    dselect("dsir", columns, "-t", target, "--keep", 0, "-o", "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").equals(every_type().slice(0, 0))
    dselect("select", *ALL, "-o", "empty.parquet")
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0


def test_without_pyarrow_one_line_says_what_to_install(dselect, columns, pool, tmp_path):
    (tmp_path / "stub" / "pyarrow").mkdir(parents=True)
    (tmp_path / "stub" / "pyarrow" / "__init__.py").write_text("raise ImportError('none here')")
    env = {"PYTHONPATH": f"{tmp_path / 'stub'}"}
    for arguments in (["select", columns, *ALL], ["select", pool, *ALL, "-o", "out.parquet"]):
        failed = dselect(*arguments, status=1, env=env)
        assert "pip install 'dselect[parquet]'" in failed.stderr
        assert failed.stderr.count("\n") == 1
    dselect("select", pool, *ALL, "-o", "out.jsonl", env=env)

"""Every command that writes records, and every fit: the same bytes for any jobs, from a file, a pipe, or shards."""

import pytest

from dselect.cli import summaries
from tests.conftest import long, read_bytes
from tests.ways import FITS, RECORDS, furnish

pytestmark = long

# tables, folders, or no pool
OTHERS = {"check", "corpus", "diff", "embed", "eval", "merge", "report", "stats", "table"}
SHUFFLED = [f"shards/{number}.jsonl" for number in (2, 0, 3, 1)]


@pytest.fixture
def place(tmp_path):
    furnish(tmp_path)
    return tmp_path


def test_no_command_is_forgotten():
    assert {name.split()[0] for name in (*RECORDS, *FITS)} | OTHERS == set(summaries())


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_the_same_however_the_work_is_divided(name, dselect, place):
    command, options = name.split()[0], RECORDS[name]
    one = dselect(command, "pool.jsonl.zst", *options, "-j", 1).stdout
    assert one
    for jobs in (2, 3):
        assert dselect(command, "pool.jsonl.zst", *options, "-j", jobs).stdout == one
    assert dselect(command, *options, stdin=read_bytes(place / "pool.jsonl.zst")).stdout == one
    assert dselect(command, "shards", *options, "-j", 2).stdout == one
    shuffled = dselect(command, *SHUFFLED, *options).stdout
    assert sorted(shuffled.split(b"\n")) == sorted(one.split(b"\n"))


@pytest.mark.parametrize("name", FITS)
def test_fits_are_the_same_however_the_work_is_divided_and_whatever_the_order(name, dselect, place):
    found = {}
    forms = {"file": ["pool.jsonl.zst"], "shards": ["shards"], "shuffled": SHUFFLED}
    for form, paths in forms.items():
        for jobs in (1, 3):
            dselect(name, *paths, *FITS[name], f"{form}{jobs}", "-j", jobs)
            found[form, jobs] = (place / f"{form}{jobs}").read_bytes()
    dselect(name, *FITS[name], "pipe", stdin=read_bytes(place / "pool.jsonl.zst"))
    found["pipe", 0] = (place / "pipe").read_bytes()
    assert len(set(found.values())) == 1, {form: hash(data) for form, data in found.items()}


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_vectors_are_the_same_however_the_work_is_divided(jobs, dselect, place):
    dselect("embed", "shards", "-o", "one/", "-j", 1)
    dselect("embed", "shards", "-o", "other/", "-j", jobs)
    for path in (path for path in (place / "one").iterdir() if "manifest" not in path.name):
        assert path.read_bytes() == (place / "other" / path.name).read_bytes()

"""A wheel built from the tree works where nothing else is installed."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import long, make_pool, make_target, write_records

ROOT = Path(__file__).parents[1]


def pip(*arguments, python=sys.executable):
    return subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    if built.returncode and "Could not find a version" in built.stderr:
        pytest.skip("no package index can be reached")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_a_plain_install_asks_for_no_torch_and_no_compiler(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("py3-none-any.whl")
    assert {"dselect/kernels/word_classes.txt", "dselect/kernels/lower_cases.txt"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("METADATA"))).decode()
    plain = [line for line in metadata.split("\n") if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not [line for line in plain if "torch" in line or "transformers" in line]
    extras = {line.split(": ")[1] for line in metadata.split("\n") if line.startswith("Provides-Extra")}
    assert extras == {"dev", "judge", "lightgbm", "neural", "parquet", "ray", "report", "tokens"}


@long
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = pip("install", "--quiet", "--only-binary", ":all:", str(wheel), python=str(python))
    assert installed.returncode == 0, installed.stderr
    write_records(tmp_path / "pool.jsonl.zst", make_pool(30))
    write_records(tmp_path / "target.jsonl.zst", make_target())
    command = [tmp_path / "venv" / "bin" / "dselect", "dsir", "pool.jsonl.zst", "--target", "target.jsonl.zst"]
    done = subprocess.run([*command, "--keep", "5"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.count(b'"dsir":') == 5
    module = subprocess.run([python, "-m", "dselect", "--version"], capture_output=True, check=True)
    assert module.stdout.startswith(b"dselect ")


@long
def test_the_source_distribution_holds_what_is_committed_and_builds_the_same_wheel(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    assert pip("install", "--quiet", "hatchling", python=python).returncode == 0
    subprocess.run([python, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path], cwd=ROOT, check=True)
    source = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert held - {"PKG-INFO", ".gitignore"} == {name for name in tracked if not name.startswith(".")}
    assert pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)).returncode == 0
    again = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    first = zipfile.ZipFile(wheel)
    assert {name: again.read(name) for name in again.namelist()} == {
        name: first.read(name) for name in first.namelist()
    }

"""A Ray cluster gives the bytes that one machine gives, whatever becomes of its machines."""

import os
import signal
import subprocess
import time

import pytest

from tests.conftest import COOKING, DSELECT, long, make_pool, write_records

pytestmark = [long, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


@pytest.fixture(scope="module")
def cluster():
    """Start two machines on this one."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def shards(tmp_path):
    for number in range(6):
        write_records(tmp_path / "pool" / f"{number}.jsonl.zst", make_pool(60 + 40 * number, seed=number))
    write_records(tmp_path / "pool" / "6.jsonl", [])
    return tmp_path / "pool"


RUNS = {
    "dsir": ["dsir", "pool", "-t", "TARGET"],
    "dsir kept": ["dsir", "pool", "-t", "TARGET", "--keep", "20%", "--seed", "3"],
    "dsir as published": ["dsir", "pool", "-t", "TARGET", "--reference"],
    "zipfit": ["zipfit", "pool", "-t", "TARGET"],
    "contrast": ["contrast", "pool", "-t", "TARGET", "--order", "3"],
    "classify": ["classify", "pool", "--positive", "TARGET", "--buckets", "1000"],
    "rules": ["rules", "pool"],
    "decontaminate": ["decontaminate", "pool", "-t", "TARGET"],
    "select": ["select", "pool", "--keep", "10%"],
}


@pytest.mark.parametrize("name", RUNS)
def test_every_method_gives_the_bytes_of_one_machine(name, cluster, dselect, shards, target, tmp_path):
    command = [str(target) if word == "TARGET" else word for word in RUNS[name]]
    dselect(*command, "-o", "here/", "-j", 2)
    dselect(*command, "-o", "there/", "--engine", f"ray:{cluster.address}")
    here, there = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("*.jsonl*")} for f in ("here", "there"))
    assert here == there
    assert len(here) == 7


def test_bad_lines_and_files_that_are_none_are_the_errors_they_are_on_one_machine(cluster, dselect, shards, target):
    engine = ["--engine", f"ray:{cluster.address}"]
    (shards / "3x.jsonl").write_bytes(b'{"text":"fine"}\nnot JSON\n')
    run = ["dsir", "pool", "-t", target, "-o", "out/"]
    said = dselect(*run, *engine, status=1).stderr
    assert said == dselect(*run, status=1).stderr
    assert said.startswith("dselect: pool/3x.jsonl:2: not JSON")
    (shards / "3x.jsonl").unlink()
    (shards / "2.jsonl.zst").write_bytes((shards / "2.jsonl.zst").read_bytes()[:-9])
    assert dselect(*run, *engine, status=1).stderr == dselect(*run, status=1).stderr
    assert "reads input files itself" in dselect("dsir", "-", "-t", target, *engine, status=2).stderr
    assert "no Ray cluster" in dselect(*run, "--engine", "ray:127.0.0.1:1", status=1).stderr


def test_a_machine_that_dies_in_the_midst_costs_time_and_nothing_else(cluster, dselect, target, tmp_path):
    for number in range(8):
        records = [{"id": f"{number}-{i}", "text": " ".join(COOKING * (20 + i % 7))} for i in range(4000)]
        write_records(tmp_path / "pool" / f"{number}.jsonl.zst", records)
    dselect("zipfit", "pool", "-t", target, "--save", "m")
    dselect("zipfit", "pool", "--model", "m", "-o", "here/")
    node = cluster.add_node(num_cpus=2)
    run = subprocess.Popen(
        [*DSELECT, "zipfit", "pool", "--model", "m", "-o", "there/", "--engine", f"ray:{cluster.address}"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    while not list((tmp_path / "there").glob("0*")):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    assert run.wait(timeout=300) == 0, run.stderr.read()
    here, there = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("*.jsonl*")} for f in ("here", "there"))
    assert here == there


@pytest.mark.parametrize("seconds", [0.6, 1.2, 2.0, 3.0])
def test_a_signal_ends_a_run_that_is_still_starting_ray(seconds, shards, target, tmp_path):
    pytest.importorskip("ray")
    process = subprocess.Popen(
        [*DSELECT, "dsir", "pool", "--target", str(target), "--engine", "ray", "-o", "out/", "-q"],
        cwd=tmp_path, env={**os.environ, "RAY_ADDRESS": ""}, stderr=subprocess.PIPE,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert b"Traceback" not in said

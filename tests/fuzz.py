"""Feed what a fuzzer invents, guided by coverage, to the reader, the splicer and every loader of model files.

    make fuzz SECONDS_EACH=600

Atheris (libFuzzer) runs it, in an environment of its own. A target fails at anything but a DselectError, at a line that
is lost, at a spliced line that is not the record with its new field, and at a model that loads and then scores what is
no number. A failure leaves the input in a file `build/crash-…`.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

# not the kernels: numba compiles their bytecode, which must be as it is
with atheris.instrument_imports(include=["dselect"], exclude=["dselect.kernels"]):
    from dselect.classifiers import open_model
    from dselect.commands.contrast import Contrast
    from dselect.commands.qurating import open_rater
    from dselect.commands.select import Rule
    from dselect.commands.zipfit import ZipFit
    from dselect.errors import DselectError
    from dselect.importance import Dsir
    from dselect.mixtures.mixture import Mixture
    from dselect.models import kmeans
    from dselect.models.byte_lm import ByteLM
    from dselect.models.sentences import SentenceSettings
    from dselect.records import splice
    from dselect.records.batch import Batch, parse
    from dselect.records.decompression import chunks
    from dselect.records.reading import blocks
    from dselect.records.sources import Source

import numpy as np
import orjson
import zstandard

FOLDER = Path(tempfile.mkdtemp(prefix="dselect-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
TEXTS = ["", "a", "the pan stir", "\0 漢字 é"]
BATCH = Batch([b"{}"] * len(TEXTS), [{} for _ in TEXTS], TEXTS, range(len(TEXTS)))


def read(data: bytes) -> None:
    """Read a file, plain or compressed: what comes out is what went in, line by line, or an error."""
    path = FOLDER / "pool.jsonl"
    path.write_bytes(data)
    source = Source(path, "pool.jsonl", "pool.jsonl")
    skippable = data[1:4] == b"\x2a\x4d\x18" and 0x50 <= data[0] <= 0x5F  # a zstd frame that holds nothing
    plain = not data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")) and not skippable
    seen = []
    try:
        for block in blocks(0, source, chunks(source)):
            batch = parse(block, "text")
            lines = block.data.split(b"\n")
            assert len(batch) + len(batch.bad) + batch.blank == len(lines) - (not lines[-1])
            for line, text in zip(batch.lines, batch.texts, strict=True):
                assert orjson.loads(line)["text"] == text
            assert len(batch.identities) == len(batch)
            seen.append(block.data)
    except DselectError:
        return
    if plain:
        assert b"".join(seen) == data.removeprefix(b"\xef\xbb\xbf")


def spliced(data: bytes) -> None:
    """Add a field to a line, and cut it out again."""
    line = data.replace(b"\n", b" ")
    try:
        record = orjson.loads(line)
    except ValueError:
        return
    if not isinstance(record, dict):
        return
    bare = splice.without(line, {"new"})
    record.pop("new", None)
    assert orjson.loads(bare) == record
    [member] = splice.members({"new": np.array([0.5])})
    for longer in (splice.append(bare, member), splice.append_all([bare], [member]).removesuffix(b"\n")):
        assert orjson.loads(longer) == {**record, "new": 0.5}
        assert orjson.loads(splice.without(longer, {"new"})) == record


def scored(model: object) -> None:
    """Score with a model that was taken for sound."""
    for column in model.score(BATCH).values():
        assert np.isfinite(column[~np.isnan(column)]).all()


def classified(path: str) -> None:
    """Open a file as fastText's."""
    probabilities = open_model(path, "__label__1")[0].probabilities(BATCH.utf8)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def clustered(path: str) -> None:
    """Assign vectors of a file's encoder to its clusters."""
    clusters, encoder = kmeans.load(path, SentenceSettings())
    if encoder and not encoder.alone:
        labels, distances = clusters.assign(encoder.encode(BATCH.utf8))
        assert ((labels >= 0) & (labels < len(clusters))).all()
        assert np.isfinite(distances).all()


def rated(path: str) -> None:
    """Rate with the rater of a file."""
    assert np.isfinite(open_rater(path, 1).rate(BATCH.utf8)).all()


LOADERS = {
    "dsir": lambda path: scored(Dsir.load(path)),
    "zipfit": lambda path: scored(ZipFit.load(path)),
    "contrast": lambda path: scored(Contrast.load(path)),
    "lm": lambda path: ByteLM.load(path).loss(BATCH.utf8),
    "bin": classified,
    "cut": Rule.load,
    "kmeans": clustered,
    "rater": rated,
    "mixture": Mixture.read,
}


# What makes sound files to begin with: the program itself, of a pool and a target in its folder.
MAKERS = {
    "dsir": [["dsir", "pool", "-t", "target", "--buckets", "8", "--save", "model"]],
    "zipfit": [
        ["zipfit", "pool", "-t", "target", "--target-sample", "2", "--save", "fast"],
        ["zipfit", "pool", "-t", "target", "--target-sample", "1", "--score", "ncd", "--save", "ncd"],
    ],
    "contrast": [["contrast", "pool", "-t", "target", "--order", "1", "--save", "model"]],
    "lm": [["lm", "target", "--order", "2", "-o", "model"]],
    "bin": [
        ["classify", "pool", "--positive", "target", "--dim", "2", "--buckets", "4", "--save", "model.bin"],
        ["classify", "pool", "--positive", "target", "--dim", "2", "--buckets", "500", "--save", "model.ftz"],
    ],
    "cut": [
        ["select", "pool", "--by", "n", "--keep", "5", "--save", "cut"],
        ["select", "pool", "--by=-n", "--sample", "--keep", "90B", "--save", "drawn"],
    ],
    "kmeans": [["kmeans", "pool", "--clusters", "2", "--dimension", "2", "--save", "model"]],
    "rater": [
        ["judge", "pool", "--pairs", "200", "--from-field", "n", "-o", "judged.jsonl"],
        ["qurating", "pool", "--judgments", "judged.jsonl", "--save", "model"],
    ],
    "mixture": [
        ["climb", "pool", "--within", "kind", "-t", "target", "--rounds", "4", "--keep", "9", "-o", "x", "--save", "m"]
    ],
}


def seeds(kind: str, folder: Path) -> None:
    """Write what the fuzzer begins with: sound files."""
    if kind == "reader":
        line = b'{"text":"a\\u00e9","id":1,"new":[{"x":"}"}]}\r\n\n {"text":null}\n'
        for name, data in {"plain": line, "bom": b"\xef\xbb\xbf" + line, "zst": zstandard.compress(line)}.items():
            (folder / name).write_bytes(data)
        (folder / "gz").write_bytes(gzip.compress(line))
    elif kind == "splicer":
        (folder / "line").write_bytes(b'{"a":{"new":[1,"}"]},"new":{"new":"\\""},"text":"x\\\\" }  ')
        (folder / "none").write_bytes(b"{ }")
    with tempfile.TemporaryDirectory(dir=FOLDER) as place:
        for name, word in (("pool", "law"), ("target", "pan")):
            lines = [
                {"text": f"the {word} {'abcdefgh'[i % 8] * 3} {i} " * (i % 5 + 1), "n": i, "kind": i % 3}
                for i in range(300)
            ]
            Path(place, name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        for number, arguments in enumerate(MAKERS.get(kind, ())):
            subprocess.run([sys.executable, "-m", "dselect", *arguments, "-q", "-j", "1"], cwd=place, check=True)
            if "--save" in arguments or arguments[0] == "lm":
                (folder / str(number)).write_bytes(Path(place, arguments[-1]).read_bytes())


def main() -> None:
    """Fuzz one target: `python tests/fuzz.py TARGET [options of libFuzzer]`."""
    kind = sys.argv.pop(1)
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    seeds(kind, corpus)
    if kind in LOADERS:

        def target(data: bytes) -> None:
            path = FOLDER / "model"
            path.write_bytes(data)
            with suppress(DselectError):
                LOADERS[kind](str(path))
    else:
        target = {"reader": read, "splicer": spliced}[kind]
    print(json.dumps({"target": kind, "pid": os.getpid()}), flush=True)
    longest = max(65536, *(2 * path.stat().st_size for path in corpus.iterdir()))
    kept = Path(__file__).parents[1] / "build"
    kept.mkdir(exist_ok=True)
    options = [f"-max_len={longest}", "-rss_limit_mb=4096", f"-artifact_prefix={kept}/"]
    atheris.Setup([*sys.argv, *options, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

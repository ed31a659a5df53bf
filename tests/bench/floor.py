"""The least that scoring records could cost: decompress, parse, compress and write them, a process for each job.

python tests/bench/floor.py JOBS FOLDER FILE…
"""

import multiprocessing
import sys
from pathlib import Path

import orjson
import zstandard


def copy(source: Path, target: Path) -> None:
    """Copy the records of a file, each parsed on the way, in frames of 4 MiB as dselect writes them."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with source.open("rb") as file, target.open("wb") as out:
        held, frame, size = b"", [], 0
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        while chunk := reader.read(1 << 20):
            *lines, held = (held + chunk).split(b"\n")
            for line in lines:
                orjson.loads(line)
            frame += [line + b"\n" for line in lines]
            size += len(chunk)
            if size >= 4 << 20:
                out.write(compressor.compress(b"".join(frame)))
                frame, size = [], 0
        out.write(compressor.compress(b"".join(frame)))


def main() -> None:
    """Copy the files, the largest first, with as many processes as jobs."""
    jobs, folder, *names = sys.argv[1:]
    paths = sorted(map(Path, names), key=lambda path: -path.stat().st_size)
    with multiprocessing.Pool(int(jobs)) as pool:
        pool.starmap(copy, [(path, Path(folder) / path.name) for path in paths], chunksize=1)


if __name__ == "__main__":
    main()

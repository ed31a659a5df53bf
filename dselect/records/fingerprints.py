"""What a file was when it was read or written, and whether it still is: size, time and content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from dselect.errors import DselectError, OutputIsInput
from dselect.records.publishing import is_special
from dselect.records.sources import Source, is_records

Json = dict[str, Any]
_KINDS = ("hf:", "st:", "static:", "lm:")  # of models, named before their path


def unchanged(entry: Json, path: Path) -> bool:
    """Tell whether a file is what a manifest's entry says: by size and time, else by content."""
    try:
        return "size" in entry and same({**entry, "name": ""}, {**entry_of(path), "name": ""})
    except DselectError:
        return False


def names_file(value: str) -> bool:
    """Tell whether an option's value is a path, or NAME=PATH, of something that is there."""
    return _path_of(value).exists()


def _path_of(value: str) -> Path:
    """Return the path that a value names: PATH, NAME=PATH, or either after what kind it is of, as in hf:PATH."""
    if "=" in value and not Path(value).exists():
        value = value.split("=", 1)[1]
    for kind in _KINDS:
        value = value.removeprefix(kind)
    return Path(value)


def named_files(values: Iterable[str]) -> list[Json]:
    """Return an entry for every file that option values name; a folder stands for the files in it."""
    found = []
    for value in values:
        path = _path_of(value)
        name = value.split("=", 1)[0] if "=" in value and not Path(value).exists() else path.name
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            found += [{"name": p.relative_to(path).as_posix(), **entry_of(p)} for p in inside]
        else:
            found.append({"name": name, **entry_of(path)})
    return found


def entry_of(path: Path) -> Json:
    """Return where a file that is read lies, its size and time; of a pipe, nothing that could ever agree."""
    try:
        status = path.stat()
    except OSError as error:
        raise DselectError(f"cannot read: {error.strerror}", where=str(path)) from error
    entry: Json = {"path": str(path)}
    if stat.S_ISREG(status.st_mode):
        entry |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return entry


def all_same(old: Sequence[Json], now: Sequence[Json]) -> bool:
    """Tell whether files are those that an earlier run read under these names."""
    return len(old) == len(now) and all(map(same, old, now))


def same(old: Json, now: Json) -> bool:
    """Tell whether a file is what an earlier run read under this name: by size and time, else by content."""
    if old.get("name") != now["name"] or "size" not in now or old.get("size") != now["size"]:
        return False
    return old.get("mtime_ns") == now["mtime_ns"] or (
        old.get("blake2b") is not None and old["blake2b"] == digest(Path(now["path"]))
    )


def state_of(path: Path) -> Json:
    """Return size and time of a file that was written; of a pipe or device, nothing that could ever agree."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns} if stat.S_ISREG(status.st_mode) else {}


def as_written(path: Path, state: Json) -> bool:
    """Tell whether a file is there and has the size and time that it was written with."""
    try:
        now = state_of(path)
    except OSError:
        return False
    return bool(now) and all(state.get(key) == value for key, value in now.items())


def refuse_collisions(outputs: Sequence[Path], read: Sequence[str], to_stdout: bool) -> None:
    """Raise DselectError where a file that is read would be written; to_stdout: by the shell too."""
    inputs = {}
    for name in read:
        with suppress(OSError):
            inputs[_identity(Path(name))] = name
    with suppress(OSError):  # what a shell's >> appends to while it is read would grow for ever
        status = os.fstat(1)
        if to_stdout and stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) in inputs:
            name = inputs[status.st_dev, status.st_ino]
            raise OutputIsInput("this input is standard output too", where=name, way_out="-o another file")
    for path in outputs:
        with suppress(OSError):
            if _identity(path) in inputs and not is_special(path):
                raise DselectError("this output is one of the inputs", where=str(path))


def refuse_future_inputs(outputs: Sequence[Path], sources: Sequence[Source]) -> None:
    """Raise DselectError for records written into a folder that is read: the next run would read them too."""
    folders = {source.folder: source.folder.resolve() for source in sources if source.folder}
    records = [path for path in outputs if is_records(path)]
    parents = {parent: parent.resolve() for parent in {path.parent for path in records}}
    for (folder, own), path in product(folders.items(), records):
        place = parents[path.parent]
        if place.is_relative_to(own) and not any(part[0] == "." for part in place.relative_to(own).parts):
            raise DselectError(
                f"the next run would read this output, since it lies in {folder}",
                where=str(path),
                way_out="write it elsewhere, or name the files to read",
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def digest(path: Path) -> str:
    """Return blake2b-128 of a file's bytes, as hex."""
    found = fresh_digest()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def fresh_digest() -> hashlib.blake2b:
    """Return the hash that `digest` uses, for bytes as they come."""
    return hashlib.blake2b(digest_size=16)

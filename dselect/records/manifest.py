"""What a run read, did and wrote: kept beside its output, so that the next run knows whether there is anything to do.

`NAME.manifest.json` stands beside the file or folder NAME. While a folder is being written, `.NAME.journal` lists the
shards that are done, so that a killed run continues. Both are plain JSON. What they say is believed only of files whose
size and time agree.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from dselect import __version__
from dselect.errors import DselectError
from dselect.records.beside import journal_path, manifest_of, manifest_path
from dselect.records.fingerprints import (
    all_same,
    as_written,
    digest,
    entry_of,
    named_files,
    refuse_collisions,
    refuse_future_inputs,
    same,
    state_of,
)
from dselect.records.publishing import date_back, is_special, open_own, publish, write_all
from dselect.records.sources import Source

Json = dict[str, Any]
_PACKAGE = Path(__file__).parents[1]
LONGEST_NAME = 255  # bytes, on every file system in use


class UpToDate(BaseException):
    """There is nothing to do; the outputs have been touched. No Exception: it is no failure."""

    def __init__(self, output: str, summary: Json) -> None:
        super().__init__(output)
        self.output, self.summary = output, summary


@dataclass
class Call:
    """A command as it was called: what decides its outcome, and where that goes."""

    command: str
    settings: Json  # options that decide what comes out
    files: dict[str, list[str]]  # options that name files to read
    output: str | None  # None: standard output
    also: dict[str, str]  # further outputs, by option: --save, --log, --rejects
    records: bool = True  # whether records are written; False: the run only saves a model
    force: bool = False


class Ledger:
    """The books of one run: what there is to do, what is done, and in the end the manifest."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.done: dict[int, Json] = {}  # by source: shards that an earlier run has finished
        self._facts: Callable[[int], Json] = lambda _: {}
        self._shard_facts: Callable[[int], Json] = lambda _: {}
        self._inputs: list[Json] = []
        self._files: dict[str, list[Json]] = {}
        self._digests: dict[str, str] = {}  # of these files, by path
        self._outputs: dict[str, Json] = {}
        self._old: Json = {}
        self._main: Path | None = None
        self._journal: BinaryIO | None = None
        self._killed = False
        self._others: list[Json] = []  # shards of this call from other inputs: they stay
        self._stale: list[Json] = []  # shards that go
        self._listed: list[Json] = []  # all that earlier runs say they have written, those that were killed too

    # -- before the work

    def open(
        self,
        sources: Sequence[Source],
        facts: Callable[[int], Json],
        shard_facts: Callable[[int], Json] = lambda _: {},
        *,
        outputs: Sequence[Path],
        folder: bool,
        whole: bool,
        resume: bool,
    ) -> None:
        """Begin; raise UpToDate, with the outputs touched, if an earlier run did all of this.

        facts tells of a source that has been read: its digest and counts; shard_facts also what a later run must know
        that passes over it. outputs: the files that records go to; none where they go to standard output, or nowhere.
        folder: one output per source, finished one by one. whole: each output depends on all sources. resume: what is
        done of a folder may stay. DselectError where a file that is read would be written.
        """
        self._facts, self._shard_facts = facts, shard_facts
        self._inputs = [{"name": s.relative, **(entry_of(s.path) if s.path else {"path": s.name})} for s in sources]
        self._files = {option: named_files(values) for option, values in self.call.files.items()}
        read = [entry["path"] for entries in (self._inputs, *self._files.values()) for entry in entries]
        also = list(map(Path, self.call.also.values()))
        for path in also:  # two outputs of one name are told apart where they are opened, which knows their inputs
            if path.resolve() in {other.resolve() for other in (*outputs, *also) if other is not path}:
                raise DselectError("this output is named twice", where=str(path))
        refuse_collisions([*outputs, *also], read, self.call.records and self.call.output is None)
        refuse_future_inputs([*outputs, *also], sources)
        main = self.call.output or next(iter(self.call.also.values()), None)
        if main is None or is_special(Path(main)):
            return
        # `.`, `..` and `/` stand for the folder itself
        self._main = Path(main) if Path(main).name not in ("", "..") else Path(main).resolve()
        if nameless := [path for path in (self._main, *also) if not path.name]:
            raise DselectError("no place for an output", where=str(nameless[0]), way_out="is a variable not set?")
        more = len(f".{manifest_path(self._main).name}.tmp") - len(self._main.name)
        if len(os.fsencode(self._main.name)) + more > LONGEST_NAME:
            raise DselectError(
                "this name is too long, for its manifest stands beside it",
                where=main,
                way_out=f"{LONGEST_NAME - more} bytes are the most",
            )
        self._old = manifest_of(self._main)
        if folder:
            self._lock_folder()
            self._find_done(whole, resume and not self.call.force and "rejects" not in self.call.also)
            self._refuse_strangers(whole)
        if not self.call.force and (outputs or not self.call.records):
            self._stop_if_up_to_date(folder)
        if folder:
            self._begin_journal()
        # a model of a gigabyte takes a second, which the work need not wait for
        self._digester = threading.Thread(target=self._digest_files, daemon=True)
        self._digester.start()

    def _digest_files(self) -> None:
        for entry in (entry for entries in self._files.values() for entry in entries):
            with suppress(OSError, DselectError):
                if "size" in entry:
                    self._digests[entry["path"]] = digest(Path(entry["path"]))

    def _key(self) -> Json:
        """Return what must agree for an earlier outcome to hold, files apart."""
        key = {"command": self.call.command, "settings": self.call.settings, "dselect": __version__, "code": code()}
        return dict(json.loads(json.dumps(key)))

    def _same_call(self, book: Json) -> bool:
        files = book.get("files", {})
        return bool(
            book.get("key") == self._key()
            and set(files) == set(self._files)
            and all(all_same(files[option], now) for option, now in self._files.items())
        )

    def _stop_if_up_to_date(self, folder: bool) -> None:
        assert self._main is not None
        old, also = self._old, self._old.get("also", {})
        same_inputs = len(self.done) == len(self._inputs) if folder else all_same(old.get("inputs", []), self._inputs)
        if self._stale or not self._same_call(old) or not same_inputs or set(also) != set(self.call.also):
            return
        if folder and self._inputs:
            states = [(self._main / entry["name"], entry["output"]) for entry in self.done.values()]
        else:
            outputs = old.get("outputs", []) if self.call.output else []
            states = [(self._main.parent / output["path"], output) for output in outputs]
        states += [(Path(path), also[option]) for option, path in self.call.also.items()]
        if not states or not all(as_written(path, state) for path, state in states):
            return
        for path, state in states:
            self._touch(path)
            state |= state_of(path)
        for output in old.get("outputs", []):
            with suppress(OSError):
                output |= state_of(self._main.parent / output["path"])
        with suppress(DselectError):
            _write_json(manifest_path(self._main), old)
        if folder:
            self._touch(self._main)
        self._end_journal()
        summary = old.get("summary", {}) if all_same(old.get("inputs", []), self._inputs) else {}
        raise UpToDate(str(self._main), {"command": self.call.command, **summary})

    def _touch(self, path: Path) -> None:
        with suppress(PermissionError):
            os.utime(path)  # or make would run this command for ever

    # -- a folder, shard by shard

    def _lock_folder(self) -> None:
        assert self._main is not None
        path = journal_path(self._main)
        self._killed = path.exists()
        if not self._killed and not self._old and self._main.is_dir() and _visible(self._main):
            raise DselectError(
                "this folder is not empty, and no manifest beside it says that dselect wrote it",
                where=str(self._main),
                way_out="name a new folder, or empty this one",
            )
        try:
            self._main.mkdir(parents=True, exist_ok=True)
            self._journal = os.fdopen(open_own(path, os.O_APPEND), "a+b", buffering=0)
            fcntl.flock(self._journal.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DselectError(
                "another dselect is writing this output", where=str(self._main), way_out="wait for it"
            ) from None
        except OSError as error:
            raise DselectError(f"cannot write: {error.strerror}", where=str(self._main)) from error

    def _find_done(self, whole: bool, resume: bool) -> None:
        """Find the shards that earlier runs have done: of this call, from these inputs, and still as written."""
        assert self._journal is not None
        assert self._main is not None
        head, finished = _read_journal(self._journal)
        earlier: dict[str, Json] = {}
        listed = [*self._old.get("inputs", []), *self._old.get("others", [])]
        self._listed = [entry for entry in (*listed, *finished) if "output" in entry]
        for book, entries in ((self._old, listed), (head, finished)):
            if resume and self._same_call(book) and not (whole and not all_same(book["inputs"], self._inputs)):
                earlier |= {entry["name"]: entry for entry in entries if "output" in entry}
        for number, now in enumerate(self._inputs):
            entry = earlier.pop(now["name"], None)
            if entry and same(entry, now) and as_written(self._main / now["name"], entry["output"]):
                self.done[number] = entry
        self._others = list(earlier.values()) if not whole else []

    def _refuse_strangers(self, whole: bool) -> None:
        """Tell what is to become of shards in the folder that are not of these inputs.

        Of this call, one input after the other: they stay. From an input that is gone: they are deleted at the end.
        Of another run: nobody asked for that, so it takes --force.
        """
        assert self._main is not None
        names = {entry["name"] for entry in self._inputs}
        elsewhere = {e["name"]: e for e in self._listed if e["name"] not in names}.values()
        others = [entry for entry in elsewhere if as_written(self._main / entry["name"], entry["output"])]
        if (other := self._old.get("key", {}).get("command", self.call.command)) != self.call.command:
            of_it = [entry for entry in self._listed if as_written(self._main / entry["name"], entry["output"])]
            if of_it and not self.call.force:
                raise DselectError(
                    f"this folder holds {len(of_it):,} files that dselect {other} wrote",
                    where=str(self._main),
                    way_out="name another folder; --force writes over them",
                )
        gone = [entry for entry in others if not os.path.lexists(entry["path"])]
        alive = [entry for entry in others if entry not in gone]
        kept = [entry["name"] for entry in self._others]
        foreign = [entry for entry in alive if whole or entry["name"] not in kept]
        if foreign and not self.call.force:
            raise DselectError(
                f"this folder holds {len(foreign):,} shards of another run, {foreign[0]['name']} among them",
                where=str(self._main),
                way_out="name another folder, for each --shard its own; --force deletes them",
            )
        self._others = [entry for entry in self._others if entry in alive]
        self._stale = [*gone, *foreign]

    def _begin_journal(self) -> None:
        assert self._journal is not None
        assert self._main is not None
        os.ftruncate(self._journal.fileno(), 0)
        date_back(manifest_path(self._main))
        self._note({"key": self._key(), "files": self._files, "inputs": self._inputs})
        for entry in (*self.done.values(), *self._others):
            self._note(entry)

    def _note(self, line: Json) -> None:
        assert self._journal is not None
        write_all(self._journal, json.dumps(line).encode() + b"\n")

    def _end_journal(self) -> None:
        if self._journal is not None and self._main is not None:
            with suppress(OSError):
                journal_path(self._main).unlink()

    # -- while the work is done

    def wrote(self, path: Path, number: int) -> None:
        """Note an output that has its final name; in a folder, the number of its source."""
        state = state_of(path)
        self._outputs[str(path)] = state
        if self._journal is not None and number < len(self._inputs):
            self._inputs[number] |= {**self._shard_facts(number), "output": state}
            self._note(self._inputs[number])

    # -- after it

    def finish(self, summary: Json) -> None:
        """Write the manifest beside the output, and remove what an earlier run left of other shards."""
        if self._main is None:
            return
        for number, entry in enumerate(self._inputs):
            entry |= self.done.get(number) or (self._facts(number) if "output" not in entry else {})
            if number in self.done:
                self._outputs[str(self._main / entry["name"])] = entry["output"]
        self._digester.join()
        for option, entries in self._files.items():
            self._files[option] = [self._with_digest(entry) for entry in entries]
        if self._journal is not None:
            summary["shards_deleted"] = self._remove_stale()
            self._touch(self._main)
        for path in {self._main, *(Path(also) for option, also in self.call.also.items() if option == "save")}:
            _write_json(manifest_path(path), self._manifest(path.parent, summary))
        self._end_journal()

    def _with_digest(self, entry: Json) -> Json:
        """Return the entry of a file with a digest of its bytes, if it is still what it was."""
        found = self._digests.get(entry["path"])
        with suppress(DselectError):
            if found and entry_of(Path(entry["path"])).items() <= entry.items():
                return {**entry, "blake2b": found}
        return entry

    def _manifest(self, beside: Path, summary: Json) -> Json:
        outputs = [{"path": os.path.relpath(path, beside), **state} for path, state in self._outputs.items()]
        return {
            "key": self._key(),
            "argv": sys.argv,
            "versions": versions(),
            "files": self._files,
            "inputs": self._inputs,
            "others": self._others,
            "outputs": outputs,
            "also": {option: state_of(Path(path)) for option, path in self.call.also.items()},
            "summary": summary,
            "peak_memory_bytes": _peak_memory(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _remove_stale(self) -> int:
        """Delete the shards that are not to stay, if they are as they were written, and temporaries of killed runs."""
        assert self._main is not None
        folder, deleted = self._main.resolve(), 0
        for entry in self._stale:
            path = self._main / entry["name"]
            if path.resolve().is_relative_to(folder) and as_written(path, entry["output"]):
                path.unlink()
                deleted += 1
        for temporary in self._main.rglob(".*.tmp") if self._killed else ():
            temporary.unlink()
        return deleted

    def close(self) -> None:
        """Let go of the folder; what the journal lists is there for the next run."""
        if self._journal is not None:
            self._journal.close()


@cache
def code() -> str:
    """Return a hash of the package's own files: other code may give other bytes."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".txt"):
            found.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    import zlib

    found = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    for name in ("numpy", "numba", "orjson", "zstandard", "faiss-cpu", "scikit-learn"):
        with suppress(metadata.PackageNotFoundError):  # another distribution may hold the library
            found[name] = metadata.version(name)
    return found


def _visible(folder: Path) -> bool:
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _read_journal(file: BinaryIO) -> tuple[Json, list[Json]]:
    file.seek(0)
    lines = []
    for line in file.read().split(b"\n"):
        try:
            found = json.loads(line)
        except ValueError:
            break  # the last line of a run that was killed while it wrote
        if not isinstance(found, dict):
            break
        lines.append(found)
    return (lines[0], lines[1:]) if lines else ({}, [])


def _write_json(path: Path, value: Json) -> None:
    publish(path, json.dumps(value, indent=1).encode() + b"\n")


def _peak_memory() -> dict[str, int]:
    unit = 1024 if sys.platform.startswith("linux") else 1
    return {
        "parent": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "largest_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    }

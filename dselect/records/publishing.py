"""Files that appear under their name when they are complete, and not before; and what else stands for unfinished."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dselect.errors import DselectError


class TemporaryFile:
    """`.NAME.tmp` beside the final name: locked while written, then synced and renamed, or removed."""

    def __init__(self, path: Path) -> None:
        self.path = path = path.resolve() if path.is_symlink() else path
        self.temporary = path.with_name(f".{path.name}.tmp")
        self.file = self._open()

    def _open(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = open_own(self.temporary)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # between the opening and the lock another run may have renamed the file away
                    if os.path.samestat(os.fstat(descriptor), self.temporary.stat()):
                        os.ftruncate(descriptor, 0)
                        return os.fdopen(descriptor, "wb", buffering=0)
                except BlockingIOError:
                    os.close(descriptor)
                    raise DselectError(
                        "another dselect is writing this output", where=str(self.path), way_out="wait for it"
                    ) from None
                except FileNotFoundError:
                    pass
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def commit(self) -> None:
        """Give the finished file its final name."""
        try:
            os.fsync(self.file.fileno())
            self.temporary.replace(self.path)  # the lock goes with the closing, after the rename
            self.file.close()
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError):
            self.temporary.unlink()
        self.file.close()


def open_own(path: Path, flags: int = 0) -> int:
    """Open a file beside an output to write it; DselectError if a stranger has put a link to another file there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(path) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise _is_link(path)
    return descriptor


def _is_link(path: Path) -> DselectError:
    return DselectError("a link, where dselect keeps a file of its own", where=str(path), way_out="remove it")


def publish(path: Path, data: bytes) -> None:
    """Write a whole file at once, under its final name only when complete."""
    file = TemporaryFile(path)
    try:
        write_all(file.file, data)
        file.commit()
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        file.discard()


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write every byte to an unbuffered file: one call may take only a part."""
    view = memoryview(data)
    while view:
        written = file.write(view)
        view = view[written:]


def date_back(path: Path) -> None:
    """Make a file or folder older than whatever it is made of: make must not take an unfinished one for done."""
    with suppress(OSError):
        os.utime(path, (0, 0))


def is_special(path: Path) -> bool:
    """Tell whether this is a pipe or device: written to as it is, never renamed over."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def cannot_write(path: Path, error: OSError) -> DselectError:
    """Return the error for an output that the system would not take."""
    return DselectError(f"cannot write: {error.strerror}", where=str(path))

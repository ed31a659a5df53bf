"""Tell a writer that had nothing to say from one that was killed: through a pipe, both are no bytes at all.

A command that keeps no record must not write a byte either. So it leaves its pipe smaller than any pipe is made, one
page, which the reader can see once the pipe has ended. Only Linux has sizes of pipes; elsewhere nothing is told apart.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from contextlib import suppress

_PAGES = 16  # of a pipe, as Linux makes them
_SET, _GET = getattr(fcntl, "F_SETPIPE_SZ", None), getattr(fcntl, "F_GETPIPE_SZ", None)


def say_nothing(descriptor: int) -> None:
    """Tell the reader of a pipe that its writer was not killed: it ends well, without a byte."""
    if _SET and _is_pipe(descriptor):
        with suppress(OSError):
            fcntl.fcntl(descriptor, _SET, mmap.PAGESIZE)


def will_speak(descriptor: int) -> None:
    """Take back what an earlier writer of this pipe has said, as in `{ dselect …; dselect …; } | dselect …`."""
    if _SET and _GET and _is_pipe(descriptor):
        with suppress(OSError):
            if fcntl.fcntl(descriptor, _GET) == mmap.PAGESIZE:
                fcntl.fcntl(descriptor, _SET, _PAGES * mmap.PAGESIZE)


def is_unexplained(descriptor: int) -> bool:
    """Tell whether a pipe that has ended without a byte may have lost its writer."""
    if not _GET or not _is_pipe(descriptor):
        return False
    try:
        return bool(fcntl.fcntl(descriptor, _GET) > mmap.PAGESIZE)
    except OSError:
        return False


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False

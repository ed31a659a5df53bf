"""The hot loops: pure functions on bytes and arrays, compiled once and cached on disk."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def _choose_cache() -> None:
    """Point numba at a folder it can write to, before numba is imported.

    numba keeps compiled code beside the source and raises where neither that nor the home folder can be written
    (a read-only image, a cluster node without a home). The last resort is private and deleted at exit: numba
    trusts what it finds in its cache, so a folder another user could have filled is out of the question.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    beside = Path(__file__).parent / "__pycache__"
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dselect"  # noqa: PTH111  no home
    for folder in (beside, user) if user.is_absolute() else (beside,):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            if folder is user:
                os.environ["NUMBA_CACHE_DIR"] = str(folder)
            return
    private = tempfile.mkdtemp(prefix="dselect-numba-")
    os.environ["NUMBA_CACHE_DIR"] = private
    atexit.register(_remove, private, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a worker that was forked later
        shutil.rmtree(folder, ignore_errors=True)


_choose_cache()

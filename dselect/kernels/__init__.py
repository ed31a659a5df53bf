"""The hot loops: pure functions on bytes and arrays, compiled once and cached on disk."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from hashlib import blake2b
from importlib import metadata
from pathlib import Path


def _choose_cache() -> None:
    """Point numba at a folder it can write to, before numba is imported.

    Each state of these sources, and each version of the compiler, has its own.
    numba keeps compiled code beside the source and raises where neither that nor the home folder can be written
    (a read-only image, a cluster node without a home). It also knows a function by its own file alone: where another
    file that it calls into has changed, it would run the old code. The last resort is private and deleted at exit:
    numba trusts what it finds in its cache, so a folder another user could have filled is out of the question.
    """
    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    compiler = " ".join(metadata.version(name) for name in ("numba", "llvmlite"))  # no other reads what one has made
    name = f"dselect-{blake2b(sources + compiler.encode(), digest_size=8).hexdigest()}"
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        if Path(given).name != name:  # not set by the process that this one comes from
            os.environ["NUMBA_CACHE_DIR"] = str(Path(given) / name)
        return
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dselect"  # noqa: PTH111  no home
    for folder in (here / "__pycache__", user) if user.is_absolute() else (here / "__pycache__",):
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder / name, os.W_OK) and (folder / name).stat().st_uid == os.getuid():
            os.environ["NUMBA_CACHE_DIR"] = str(folder / name)
            return
    private = tempfile.mkdtemp(prefix="dselect-numba-")
    os.environ["NUMBA_CACHE_DIR"] = str(Path(private) / name)
    atexit.register(_remove, private, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a worker that was forked later
        shutil.rmtree(folder, ignore_errors=True)


_choose_cache()

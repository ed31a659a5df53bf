"""Run the program without waiting for its imports: a process that has imported everything forks for each run.

A start of the interpreter with numba costs 0.7 s, and the tests start the program a thousand times. What is forked is
the program itself, with arguments, folder, environment and descriptors of its own; it ends as any process does. What
must start cold does: test_startup.py, runs that are killed, runs with an environment of their own, and everything in
`make test-all`.

`python tests/warm.py PATH` serves on a Unix socket; `python -S tests/warm.py PATH -- ARGUMENTS` is the program.
"""

import gc
import json
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

_STATUS = struct.Struct("<i")
_LENGTH = struct.Struct("<I")
_MODULES = (
    "faiss numba orjson pyarrow.parquet rich.console rich.progress rich.table safetensors.numpy scipy.optimize "
    "scipy.cluster.hierarchy sklearn.cluster sklearn.metrics typer typer._adapters zstandard"
).split()


def run(path: str, arguments: list[str], cwd: str, descriptors: list[int]) -> int:
    """Run the program in a process that the server forks; return its exit status, minus the signal that ended it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = json.dumps([arguments, cwd, dict(os.environ)]).encode()
        socket.send_fds(connection, [_LENGTH.pack(len(request))], descriptors)
        connection.sendall(request)
        return _STATUS.unpack(_receive(connection, _STATUS.size))[0]


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the server of warm processes has gone")
        data += more
    return data


def serve(path: str) -> None:
    """Import everything, then fork for every request, until the parent has gone."""
    import atexit
    import importlib
    import pkgutil

    for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[threads] = "1"
    import dselect

    ours = [
        module.name for module in pkgutil.walk_packages(dselect.__path__, "dselect.") if "__main__" not in module.name
    ]
    for name in (*_MODULES, *ours):
        with suppress(ImportError):  # of an extra that is not here
            importlib.import_module(name)
    from dselect.cli import main
    from dselect.records.manifest import code

    code()  # what every run would find out again
    gc.collect()
    gc.freeze()  # what is never collected is not copied by forked processes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, *_ = socket.recv_fds(connection, _LENGTH.size, 3)
    arguments, cwd, environment = json.loads(_receive(connection, _LENGTH.unpack(length)[0]))
    child = os.fork()
    if child:
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        with suppress(OSError):
            connection.sendall(_STATUS.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    connection.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [dselect.__path__[0] + "/__main__.py", *arguments]
    try:
        main()
    except SystemExit as ended:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code or 0)  # the end of the program, but for memory that need not be tidied up


if __name__ == "__main__":
    if sys.argv[2:3] == ["--"]:
        sys.exit(run(sys.argv[1], sys.argv[3:], str(Path.cwd()), [0, 1, 2]) % 256)
    serve(sys.argv[1])

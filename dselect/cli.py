"""The program: finds the commands, imports the one that is called, and is the one place where errors are printed."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from dselect import __version__
from dselect.errors import DselectError
from dselect.records.silence import will_speak

FAILED, INTERNAL = 1, 70
_STOPPING = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal has gone"}


def summaries() -> dict[str, str]:
    """Return every command and its summary: line 1 of its file, read without importing or parsing it."""
    found = {}
    for path in sorted((Path(__file__).parent / "commands").glob("[!_]*.py")):
        with path.open(encoding="utf-8") as file:
            found[path.stem.replace("_", "-")] = file.readline().strip().strip('"')
    return found


class _Listed(TyperCommand):
    """A command as the table shows it: a name and a summary, nothing behind them."""


class Commands(TyperGroup):
    """The table of commands, which imports a command's module only when that command is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in alphabetical order."""
        return list(summaries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, imported; None if there is none."""
        if cmd_name not in summaries():
            return None
        from dselect.calling import expand

        module = import_module(f"dselect.commands.{cmd_name.replace('-', '_')}")
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(cmd_name)(expand(cmd_name, module.command))
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(summaries().items()))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete the names of commands without importing them."""
        self.commands = {
            name: _Listed(name=name, help=text, callback=lambda: None) for name, text in summaries().items()
        }
        return super().shell_complete(ctx, incomplete)


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dselect {__version__}")
        raise typer.Exit


@app.callback()
def _dselect(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Choose the documents a language model should be trained on.

    Each method reads records (jsonl, plain or compressed), adds its score, and writes them; --keep writes only
    the best.

    \b
    Example:
      dselect dsir pool.jsonl.zst --target target.jsonl.zst --keep 10% -o picked.jsonl.zst
    """


class Stopped(BaseException):
    """A signal asked the run to end. No KeyboardInterrupt: typer would make an exit status of 1 of it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def _stop(number: int, frame: object) -> NoReturn:
    raise Stopped(number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit with its status: see `docs/concepts.md` for what each means."""
    _open_streams()
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # what nohup or a shell's & have switched off stays off
            signal.signal(number, _stop)
    # scores must not depend on how many threads a matrix product is split over
    for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    try:
        try:
            app(args=arguments, prog_name="dselect")
        finally:
            sys.stdout.flush()
    except DselectError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if (
            ended.code == 2
        ):  # wrong usage, found before a command began: whoever reads our output must not take it for all
            _poison()
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        unnamed = error.filename is None and error.strerror
        _say(f"<stdout>: cannot write: {error.strerror}" if unnamed else str(error))
        sys.exit(FAILED)
    except Stopped as stopped:
        _say(_STOPPING[stopped.number])
        sys.exit(128 + stopped.number)
    except MemoryError:
        _say("out of memory (use fewer --jobs, or options that ask for less)")
        sys.exit(FAILED)
    except Exception as error:  # noqa: BLE001  the one error boundary
        if os.environ.get("DSELECT_DEBUG"):
            traceback.print_exc()
        what = " ".join(str(error).split())[-300:]
        _say(f"internal error: {type(error).__name__}: {what} (DSELECT_DEBUG=1 shows where)")
        sys.exit(INTERNAL)


def _open_streams() -> None:
    """Put something in the place of standard streams that are closed: using stdin or stdout fails, stderr is lost."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # cron and daemons may close them
            os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)  # the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    will_speak(1)


def _poison() -> None:
    from dselect.records.writing import appends, poison_stdout

    if not appends(1):  # what a shell's >> names is as it was
        poison_stdout()


def _say(message: str) -> None:
    print(f"dselect: {message}", file=sys.stderr)

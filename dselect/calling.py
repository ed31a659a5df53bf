"""Call a command with the options that were typed: groups put together, books opened, a failing pipe ended as such."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from dselect.console import say_up_to_date
from dselect.errors import OutputIsInput, UsageError
from dselect.options import OutputOptions, RunOptions
from dselect.records.fingerprints import names_file
from dselect.records.manifest import Call, Ledger, UpToDate
from dselect.records.writing import poison_stdout

# Options that do not decide what comes out, or that are files told apart by what they hold.
_NO_SETTINGS = {
    "paths",
    "files_from",
    "output",
    "sidecar",
    "save",
    "log",
    "rejects",
    "answers",
    "tmp",
    "jobs",
    "engine",
    "quiet",
    "json_summary",
    "force",
}
# Options that make a command with --save write records too, by themselves or by what they keep.
_WRITE = ("output", "sidecar", "keep", "above", "unique", "dedup")


def _call(name: str, values: dict[str, Any], annotations: dict[str, Any]) -> Call:
    """Return the books' view of a command: options that name files are known by what these hold, not by their names."""
    settings, files = {}, {}
    for option, value in values.items():
        if option in _NO_SETTINGS:
            continue
        named = _named(value)
        if named and _takes_files(annotations[option]) and all(map(names_file, named)):
            files[option] = named
        else:
            settings[option] = str(value) if isinstance(value, Path) else value
    # settings that stand beside a model decide with it
    beside = [name for name in (f"{model}.json" for model in files.get("model", ())) if names_file(name)]
    files |= {"model's settings": beside} if beside else {}
    also = {option: str(values[option]) for option in ("save", "log", "rejects") if values.get(option)}
    settings["sidecar"] = bool(values.get("sidecar"))
    output = values.get("output") or values.get("sidecar")
    given = [option for option in _WRITE if values.get(option) is not None and values.get(option) is not False]
    records = bool(given) or not values.get("save")
    written = None if output in ("-", "/dev/stdout") else output
    return Call(name, settings, files, written, also, records, force=bool(values.get("force")))


def _named(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, list) else [value]) if v is not None]


def _takes_files(annotation: Any) -> bool:
    metavar = str(getattr(annotation.__metadata__[0], "metavar", None))
    return "FILE" in metavar or "DIR" in metavar or "POOL" in metavar


def _refuse_nameless(values: dict[str, Any], annotations: dict[str, Any]) -> None:
    """Raise UsageError for an empty file name: what a shell makes of a variable that is not set."""
    for option, value in values.items():
        if _takes_files(annotations[option]) and "" in _named(value):
            declared = [*(annotations[option].__metadata__[0].param_decls or ()), f"--{option.replace('_', '-')}"]
            name = "an input" if option == "paths" else next(name for name in declared if name.startswith("--"))
            raise UsageError(f"{name} has no name", way_out="is a variable of the shell not set?")


def expand(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with every group of options replaced by its options, as typer wants them.

    A run that fails while its records go to standard output ends that stream with the line that readers refuse.
    """
    hints = get_type_hints(command, include_extras=True)
    given = inspect.signature(command).parameters
    groups = {group: hints[group] for group in given if is_dataclass(hints[group])}
    flat: dict[str, inspect.Parameter] = {}
    for own in (parameter for parameter in given if parameter not in groups):
        default = given[own].default
        flat[own] = inspect.Parameter(own, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[own])
    for group in groups.values():
        group_hints = get_type_hints(group, include_extras=True)
        for option in _own(group):
            flat[option.name] = inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=group_hints[option.name],
            )
    annotations = {option: parameter.annotation for option, parameter in flat.items()}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        _refuse_nameless(values, annotations)
        call = _call(name, values, annotations)
        built = {
            group: kind(**{option.name: values.pop(option.name) for option in _own(kind)})
            for group, kind in groups.items()
        }
        options = next(group for group in built.values() if isinstance(group, RunOptions))
        options.ledger = Ledger(call)
        try:
            command(**built, **values)
        except UpToDate as done:
            say_up_to_date(call.command, options, done.output, done.summary)
        except BrokenPipeError:  # whoever read our output has had enough
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), sys.stdout.fileno())  # or Python complains while it flushes at exit
            raise SystemExit(0) from None
        except OutputIsInput:
            raise
        except BaseException:
            if any(isinstance(group, OutputOptions) for group in built.values()) and call.records and not call.output:
                poison_stdout()
            raise
        finally:
            options.ledger.close()

    run.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]  # what inspect looks for
    run.__annotations__ = annotations
    del run.__wrapped__  # else get_type_hints would look there
    return run


def _own(group: Any) -> list[Any]:
    return [option for option in fields(group) if option.init]

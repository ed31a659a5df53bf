"""The options that commands share, each defined once, and the groups they come in."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, get_type_hints

from typer import Argument, Option

from dselect.choice import Choice
from dselect.engine import usable_cpus
from dselect.errors import DselectError, UsageError
from dselect.pipeline import open_sink
from dselect.pool import Pool, Progress, Tolerance
from dselect.records.reading import Source, discover
from dselect.records.writing import Sink, poison_stdout
from dselect.selection import Budget

__all__ = ["Argument", "Option"]

Targets = Annotated[
    list[str] | None,
    Option("--target", "-t", metavar="FILE", help="Records to resemble; give it again for more."),
]
Length = Annotated[
    Literal["mean", "sum"], Option(help="Mean per n-gram, or the paper's sum, which mostly measures length.")
]

Overwrite = Annotated[bool, Option("--overwrite", help="Replace fields that the records have already.")]


@dataclass
class RunOptions:
    """How to run, and how much to say."""

    jobs: Annotated[
        int, Option("--jobs", "-j", min=0, help="Processes; 0 for every CPU this process may use.", show_default=False)
    ] = 0
    seed: Annotated[int, Option(help="Seed of every random draw.")] = 0
    quiet: Annotated[bool, Option("--quiet", "-q", help="Say nothing but errors.")] = False
    json_summary: Annotated[bool, Option("--json-summary", help="Make the last line on stderr JSON.")] = False

    def __post_init__(self) -> None:
        self.jobs = self.jobs or usable_cpus()


@dataclass
class PoolOptions:
    """What to read."""

    paths: Annotated[
        list[str] | None,
        Argument(
            metavar="[POOL]...", help="Files or folders of jsonl[.gz|.zst]; - or nothing for stdin.", show_default=False
        ),
    ] = None
    files_from: Annotated[
        str | None, Option(metavar="LIST", help="Read the names of inputs from a file, one a line.")
    ] = None
    text: Annotated[str, Option(metavar="FIELD", help="The field that holds the text; dots reach inside.")] = "text"
    bad_lines: Annotated[
        str,
        Option(metavar="stop|skip[:MOST]", help="Stop at a line that is no record, or set aside up to 100 or 0.1%."),
    ] = "stop"
    rejects: Annotated[Path | None, Option(metavar="FILE", help="Where bad lines go, as they are.")] = None
    limit: Annotated[int | None, Option(metavar="N", min=0, help="Read only the first N lines, to try a command.")] = (
        None
    )
    tmp: Annotated[Path | None, Option(metavar="DIR", help="Where a stream is kept for a second pass.")] = None

    def names(self) -> list[str]:
        """Return what was named as input, `-` for standard input."""
        named = list(self.paths or [])
        if self.files_from:
            try:
                listed = Path(self.files_from).read_text("utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise DselectError(f"cannot read this list: {error}", where=self.files_from) from error
            named += [name for name in (line.rstrip("\r") for line in listed) if name]
        elif not named:
            if sys.stdin.isatty():
                raise UsageError("no pool given", way_out="name files or folders, or pipe records in")
            return ["-"]
        return named

    def sources(self) -> list[Source]:
        """Return the inputs that were named, or standard input."""
        return discover(self.names())

    def open(self, run: RunOptions, progress: Progress, *, rereads: bool) -> Pool:
        """Return the pool. A stream is kept for a second pass if `rereads`."""
        return Pool(
            self.sources(),
            text_field=self.text,
            tolerance=Tolerance.parse(self.bad_lines),
            rejects=self.rejects,
            limit=self.limit,
            spool_folder=self.tmp,
            jobs=run.jobs,
            progress=progress,
            rereads=rereads,
        )

    def open_target(self, name: str) -> Pool:
        """Return a target: read here and now, its bad lines never skipped."""
        return Pool(discover([name]), text_field=self.text)


@dataclass
class OutputOptions:
    """Where records go."""

    output: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="FILE|DIR/",
            help="A file (.jsonl, .gz, .zst), or a folder: one file per input. [default: stdout]",
        ),
    ] = None

    def open(self, pool: Pool, *, write: bool = True) -> Sink:
        """Return the open output, or one that takes nothing."""
        return open_sink(self.output or "-", pool.sources, pool.jobs) if write else _Nowhere()


@dataclass
class ChoiceOptions:
    """What to keep."""

    keep: Annotated[
        str | None, Option(metavar="BUDGET", help="Keep the best: 5000, 10%, 30MB, 2Mtok, 10%B or 10%tok.")
    ] = None
    above: Annotated[float | None, Option(metavar="X", help="Keep records whose score is greater than X.")] = None
    sample: Annotated[
        bool, Option("--sample", help="Draw the budget at random, likelier the better, instead of the best.")
    ] = False
    temperature: Annotated[float, Option(help="Of --sample: 0 is the best, larger is more uniform.", min=0)] = 1.0
    scale: Annotated[
        Literal["zscore", "none"], Option(help="Of --sample: z-scored scores, or as they are (the papers').")
    ] = "zscore"
    within: Annotated[
        str | None, Option(metavar="FIELD", help="Share the budget among the domains this field names.")
    ] = None
    quota: Annotated[
        str,
        Option(metavar="proportional|equal|FILE", help="Of --within: shares as in the pool, equal, or JSON weights."),
    ] = "proportional"
    unique: Annotated[bool, Option("--unique", help="Of records with the same text keep only the best.")] = False
    tokens: Annotated[
        str | None,
        Option(metavar="FIELD", help="The token count of a record. [default: token_count, metadata.token_count]"),
    ] = None

    def build(self, seed: int, missing: Literal["error", "drop", "lowest"] = "drop") -> Choice:
        """Return the choice; UsageError where the options contradict each other."""
        choice = Choice(
            keep=None if self.keep is None else Budget.parse(self.keep),
            above=self.above,
            sample=self.sample,
            temperature=self.temperature,
            scale=self.scale,
            within=self.within,
            quota=self.quota,
            unique=self.unique,
            tokens=self.tokens,
            missing=missing,
            seed=seed,
        )
        choice.check()
        return choice


class _Nowhere:
    """The output of a run that only fits and saves."""

    def write(self, source: int, data: bytes) -> None:
        """Nothing is ever written here."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with every group of options replaced by its options, as typer wants them.

    A run that fails while its records go to standard output ends that stream with the line that readers refuse.
    """
    hints = get_type_hints(command, include_extras=True)
    given = inspect.signature(command).parameters
    groups = {name: hints[name] for name in given if is_dataclass(hints[name])}
    flat: dict[str, inspect.Parameter] = {}
    own = [name for name in given if name not in groups]
    for name in own:
        default = given[name].default
        flat[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
    for group in groups.values():
        group_hints = get_type_hints(group, include_extras=True)
        for option in fields(group):
            flat[option.name] = inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=group_hints[option.name],
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        built = {
            name: group(**{option.name: values.pop(option.name) for option in fields(group)})
            for name, group in groups.items()
        }
        output = next((group for group in built.values() if isinstance(group, OutputOptions)), None)
        try:
            command(**built, **values)
        except BrokenPipeError:  # whoever read our output has had enough
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), sys.stdout.fileno())  # or Python complains while it flushes at exit
            raise SystemExit(0) from None
        except BaseException:
            if output and (output.output or "-") == "-":
                poison_stdout()
            raise

    run.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]  # what inspect looks for
    run.__annotations__ = {name: parameter.annotation for name, parameter in flat.items()}
    del run.__wrapped__  # else get_type_hints would look there
    return run

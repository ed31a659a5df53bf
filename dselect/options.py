"""The options that commands share, each defined once, and the groups they come in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from dselect.choice import Choice
from dselect.engine import usable_cpus
from dselect.errors import DselectError, UsageError
from dselect.pipeline import is_folder, open_sink, output_files
from dselect.pool import Pool, Progress, Tolerance
from dselect.records.fingerprints import fresh_digest
from dselect.records.manifest import Ledger
from dselect.records.publishing import is_special
from dselect.records.sources import Source, discover
from dselect.records.writing import Opener, Sink, open_output
from dselect.selection import Budget

if TYPE_CHECKING:
    from dselect.models.encoders import Encoder
    from dselect.models.sentences import SentenceSettings

__all__ = ["Argument", "Option"]

Targets = Annotated[
    list[str] | None,
    Option("--target", "-t", metavar="FILE", help="Records to resemble; give it again for more."),
]
Model = Annotated[str | None, Option(metavar="FILE", help="Score with a fitted model instead of fitting one.")]
Save = Annotated[str | None, Option(metavar="FILE", help="Save the fitted model. Without -o or --keep, fit and stop.")]
FitOn = Annotated[str, Option(metavar="all|SIZE", help="What of the pool to fit on: a seeded sample of this size.")]
MinWords = Annotated[int, Option(metavar="N", help="Shorter records get no score; --keep drops them.", min=0)]
As = Annotated[str, Option("--as", metavar="NAME", help="Name of the field.")]
Sidecar = Annotated[
    str | None,
    Option("--attributes", metavar="DIR", help="Write no records but dolma attribute files, one for each input."),
]
Order = Annotated[int, Option(help="Longest n-gram, in bytes.", min=1, max=8)]
MaxMemory = Annotated[str, Option(metavar="SIZE", help="Of n-gram counts; beyond it the rarest are forgotten.")]

Keep = Annotated[str | None, Option(metavar="BUDGET", help="How much to take: 5000, 10%, 30MB, 2Mtok, 10%B or 10%tok.")]
MaxRepeats = Annotated[
    int,
    Option(metavar="N", help="Times that a record may be taken, where its domain holds too little.", min=1, max=100),
]
Tokens = Annotated[
    str | None,
    Option(metavar="FIELD", help="The token count of a record. [default: token_count, metadata.token_count]"),
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace fields that the records have already.")]

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


def needs_either(command: str, fits: str) -> UsageError:
    """Return the error for a command that was given none or both of what it fits to and a model."""
    return UsageError(
        f"{command} needs {fits.split(maxsplit=1)[0]} or --model, and not both",
        way_out=f"{fits} fits, --model FILE uses what was fitted",
    )


@dataclass
class RunOptions:
    """How to run, and how much to say."""

    jobs: Annotated[
        int,
        Option(
            "--jobs",
            "-j",
            metavar="N",
            min=0,
            max=1024,
            help="Processes; 0 for every CPU this process may use.",
            show_default=False,
        ),
    ] = 0
    seed: Annotated[int, Option(metavar="N", help="Seed of every random draw.")] = 0
    quiet: Annotated[bool, Option("--quiet", "-q", help="Say nothing but errors.")] = False
    json_summary: Annotated[bool, Option("--json-summary", help="Make the last line on stderr JSON.")] = False
    force: Annotated[bool, Option("--force", help="Do it again, even if the output is up to date.")] = False
    ledger: Ledger = field(init=False)  # made of all of a command's options
    asked: bool = field(init=False)  # whether --jobs was given

    def __post_init__(self) -> None:
        self.asked = bool(self.jobs)
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
        str | None,
        Option(metavar="LIST", help="Read the names of inputs from a file or -, one a line or each ended by a NUL."),
    ] = None
    shard: Annotated[
        str | None,
        Option(metavar="I/N", help="Take part I of N, every N-th input file: 1/4 to 4/4 on four machines."),
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
    engine: Annotated[
        str, Option(metavar="local|ray[:ADDRESS]", help="Where the work is done: here, or by a Ray cluster.")
    ] = "local"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"local|ray(:.+)?", self.engine):
            raise UsageError(f"cannot read --engine {self.engine!r}", way_out="local, ray or ray:ADDRESS")

    def names(self) -> list[str]:
        """Return what was named as input, `-` for standard input."""
        named = list(self.paths or [])
        if self.files_from:
            named += self._listed
            if not named:
                raise DselectError("this list names no input", where=self.files_from)
        elif not named:
            if sys.stdin.isatty():
                raise UsageError("no pool given", way_out="name files or folders, or pipe records in")
            return ["-"]
        return named

    @cached_property
    def _listed(self) -> list[str]:
        name = self.files_from or ""
        try:
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise DselectError(f"cannot read this list: {error.strerror}", where=name) from error
        names = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
        listed = [os.fsdecode(one) for one in names if one]
        if name == "-" and "-" in (*listed, *(self.paths or ())):
            raise UsageError("standard input is the list of inputs, and cannot be an input too")
        return listed

    def sources(self) -> list[Source]:
        """Return the inputs that were named, or standard input; of a shard, its own."""
        return self.share(self._found)

    @cached_property
    def _found(self) -> list[Source]:
        return discover(self.names())

    def share(self, found: list[Source]) -> list[Source]:
        """Return those of the inputs that the shard asked for is made of; all of them where none is asked for."""
        if self.shard is None:
            return found
        part, parts = self.part()
        if any(source.path is None for source in found):
            raise UsageError("--shard shares out input files, and standard input is none", way_out="name the files")
        return found[part - 1 :: parts]

    def part(self) -> tuple[int, int]:
        """Return I and N of --shard, 1 and 1 where it is not given."""
        named = _SHARD.fullmatch("1/1" if self.shard is None else self.shard)
        part, parts = map(int, named.groups()) if named else (0, 0)
        if not 1 <= part <= parts:
            raise UsageError(f"cannot read --shard {self.shard!r}", way_out="I/N from 1/N to N/N, as 1/4")
        return part, parts

    def dealt(self) -> str:
        """Return what stands for the files that --shard deals out: a hash of their names and sizes."""
        found = fresh_digest()
        for source in self._found:
            found.update(f"{source.relative}\0{source.size}\0".encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def open(
        self,
        run: RunOptions,
        progress: Progress,
        *,
        rereads: bool,
        attributes: Sequence[str] | None = None,
        kernels: Sequence[str] = (),
    ) -> Pool:
        """Return the pool, with the fields that folders of attribute files add.

        rereads: keep a stream for it. kernels: modules that its workers will need.
        """
        if self.rejects and self.bad_lines == "stop":
            raise UsageError("--rejects is where bad lines go that are skipped", way_out="--bad-lines skip")
        if self.engine != "local" and (self.limit is not None or attributes):
            raise UsageError("--limit and --attributes are for --engine local")
        return Pool(
            self.sources(),
            text_field=self.text,
            tolerance=Tolerance.parse(self.bad_lines),
            rejects=self.rejects,
            limit=self.limit,
            spool_folder=self.tmp,
            jobs=run.jobs,
            few_alone=not run.asked,
            progress=progress,
            rereads=rereads,
            attributes=[Path(folder) for folder in attributes or ()],
            kernels=kernels,
            engine=self.engine,
        )

    def open_targets(self, names: Sequence[str], text: str | None = None, *, alone: bool = False) -> list[Pool]:
        """Return the targets: read here and now, their bad lines never skipped; DselectError for one named twice.

        alone: the pool is not read, so standard input may be a target.
        """
        if not alone and any(name == "-" or is_special(Path(name)) for name in names):
            reads = self.files_from == "-" or "-" in self.names()
            discover([*(["-"] if reads else []), *names])
        else:
            discover(names)
        return [Pool(discover([name]), text_field=text or self.text) for name in names]

    def check_new(self, field: str) -> None:
        """Raise UsageError for a field that must not be written: one without a name, or the text."""
        if field in ("", self.text):
            raise UsageError(f"--as {field!r} names no field of its own", way_out="--as NAME")


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

    def __post_init__(self) -> None:
        if self.output == "/dev/stdout":
            self.output = "-"

    def fits_only(self, save: str | None, sidecar: str | None, choice: Choice) -> bool:
        """Tell whether a command fits a model, saves it and stops: nothing says where records should go."""
        return bool(save and self.output is None and sidecar is None and not choice)

    def open(
        self,
        pool: Pool,
        run: RunOptions,
        *,
        write: bool = True,
        alone: bool = False,
        sidecar: str | None = None,
        opener: Opener = open_output,
    ) -> Sink:
        """Return the open output, or one that takes nothing; raise UpToDate if there is nothing to do.

        alone: what a shard gives depends on no other shard, so those that have not changed are not done again.
        sidecar: the folder of attribute files, in place of the output. opener: of the files in a folder.
        """
        if sidecar and self.output:
            raise UsageError("-o writes records and --attributes only attributes", way_out="run it twice")
        output = f"{sidecar.rstrip('/')}/" if sidecar else self.output or "-"
        folder = write and output != "-" and is_folder(output)
        run.ledger.call.records = write
        run.ledger.open(
            pool.sources,
            pool.facts,
            pool.shard_facts,
            outputs=output_files(output, pool.sources) if write else [],
            folder=folder,
            whole=not alone,
            resume=pool.limit is None,
        )
        for number, entry in run.ledger.done.items():
            pool.take_over(number, entry)
        if not write:
            return _Nowhere()
        return open_sink(output, pool.sources, pool.jobs, run.ledger.wrote, pool.done, opener)


@dataclass
class ChoiceOptions:
    """What to keep."""

    keep: Annotated[
        str | None, Option(metavar="BUDGET", help="Keep the best: 5000, 10%, 30MB, 2Mtok, 10%B or 10%tok.")
    ] = None
    above: Annotated[
        float | None, Option(metavar="X", help="Keep records whose score is greater than X; with --by=-FIELD, less.")
    ] = None
    sample: Annotated[
        bool, Option("--sample", help="Draw the budget at random, likelier the better, instead of the best.")
    ] = False
    temperature: Annotated[
        float, Option(metavar="T", help="Of --sample: 0 is the best, larger is more uniform.", min=0)
    ] = 1.0
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
    tokens: Tokens = None

    def build(
        self, seed: int, missing: Literal["error", "drop", "lowest"] = "drop", sidecar: str | None = None
    ) -> Choice:
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
        if choice and sidecar:
            raise UsageError(
                "--attributes writes no records: none to keep", way_out="then: dselect select --attributes DIR"
            )
        return choice


@dataclass
class TrainingOptions:
    """How to train a fastText classifier."""

    epochs: Annotated[
        int | None, Option(metavar="N", help="Passes over what it trains on. [default: the recipe's]", min=1)
    ] = None
    lr: Annotated[float | None, Option(metavar="X", help="Learning rate. [default: 0.1]", min=0.0)] = None
    dim: Annotated[int | None, Option(metavar="N", help="Size of a vector. [default: 100]", min=1, max=65536)] = None
    buckets: Annotated[
        int | None, Option(metavar="N", help="Hash buckets of word pairs. [default: 2000000]", min=1, max=2**30)
    ] = None
    one_vs_all: Annotated[
        bool, Option("--one-vs-all", help="A probability of its own for each class instead of a softmax.")
    ] = False
    seeds: Annotated[
        int, Option(metavar="K", help="Train K models, use the first, and say how far they agree.", min=1)
    ] = 1
    threads: Annotated[
        int, Option(metavar="N", help="Of training. More than 1 is faster and does not repeat.", min=1)
    ] = 1

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, by name; what a recipe says holds for the rest."""
        asked = {"epochs": self.epochs, "lr": self.lr, "dim": self.dim, "buckets": self.buckets}
        asked |= {"one_vs_all": self.one_vs_all or None, "threads": self.threads if self.threads > 1 else None}
        return {name: value for name, value in asked.items() if value is not None}

    def __bool__(self) -> bool:
        """Tell whether anything was asked for."""
        return bool(self.settings()) or self.seeds > 1


@dataclass
class EncoderOptions:
    """What makes vectors of texts."""

    encoder: Annotated[
        str,
        Option(
            metavar="hashed|static:DIR|st:DIR|FILE",
            help="Hashed words; static vectors of tokens; sentence-transformers; or a file that embed saved.",
        ),
    ] = "hashed"
    fit_on: FitOn = "20MB"
    dimension: Annotated[int, Option(metavar="N", help="Of hashed: numbers of a vector.", min=1, max=4096)] = 128
    ngrams: Annotated[int, Option(metavar="N", help="Of hashed: longest n-gram of words.", min=1, max=64)] = 1
    device: Annotated[str, Option(help="Of st: auto, cpu, cuda, cuda:1.")] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Option(help="Of st.")] = "float32"
    batch: Annotated[int, Option(metavar="N", help="Of st: texts computed at once.", min=1)] = 32

    @property
    def fitted_here(self) -> bool:
        """Tell whether the encoder is fitted to the pool, which is then read once more."""
        return self.encoder == "hashed"

    def how(self, run: RunOptions) -> SentenceSettings:
        """Return how a transformer computes: it has threads of its own, as many as there are jobs."""
        from dselect.models.sentences import SentenceSettings

        return SentenceSettings(self.device, self.dtype, self.batch, run.jobs)

    def open(self, pool: Pool, run: RunOptions) -> Encoder:
        """Return the encoder, fitted to the pool if it is `hashed`; one that has threads takes the jobs of the pool."""
        from dselect.embedding import fit_hashed
        from dselect.models import encoders
        from dselect.models.hashed import Hashed

        found = encoders.from_spec(self.encoder, self.how(run))
        if found is None:
            return fit_hashed(pool, Hashed(self.dimension, self.ngrams), self.fit_on, run.seed)
        if found.alone:
            if pool.engine != "local":
                raise UsageError("a transformer runs where it was loaded", way_out="--shard I/N on each machine")
            pool.jobs = 1
        return found


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

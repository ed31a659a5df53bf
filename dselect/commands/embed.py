"""Make vectors of records, for what works with distances."""
# Texts to unit vectors, by hashed words (TF-IDF and a truncated decomposition, fitted to a sample of the pool), by
# static vectors of tokens, or by a transformer. They are stored by the records' identities: whoever reads them never
# takes another record's.

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dselect.console import Run
from dselect.embedding import KERNELS, Encoded
from dselect.errors import UsageError
from dselect.models.encoders import Encoder
from dselect.models.hashed import Hashed
from dselect.options import EncoderOptions, OutputOptions, PoolOptions, RunOptions, Save
from dselect.pipeline import is_folder
from dselect.records.batch import Batch
from dselect.records.publishing import publish
from dselect.records.vectors import VectorFile, file_name, pack


@dataclass(frozen=True)
class Pack:
    """Vectors of a block, as a file of them takes them: the work of the last pass."""

    source: Encoded

    def __call__(self, batch: Batch) -> bytes:
        """Return the identities and the vectors, packed."""
        return pack(batch.identities, self.source.of(batch))


def command(
    pool: PoolOptions,
    output: OutputOptions,
    run: RunOptions,
    encoder: EncoderOptions,
    save: Save = None,
) -> None:
    """Make a vector of every record, and store them in a folder: one file for each input.

    They are found there by the records' identities (id and text), whatever the order of the records or their other
    fields. The default encoder needs no model: it is fitted to a sample of the pool.

    \b
    Example:
      dselect embed pool/ -o vectors/
      dselect kmeans pool/ --vectors vectors/ --clusters 8 --keep 10% -o picked.jsonl.zst
    """
    stops = bool(save) and output.output is None
    if not stops and (output.output in (None, "-") or not is_folder(output.output or "")):
        raise UsageError("vectors go to a folder", way_out="-o DIR/, with the slash")
    if save and not encoder.fitted_here:
        raise UsageError("--save is for fitting: there is nothing new to save", way_out="--encoder hashed")
    with Run("embed", run) as talk:
        records = pool.open(run, talk, rereads=encoder.fitted_here, kernels=KERNELS)
        records.sources = [replace(source, relative=file_name(source.relative)) for source in records.sources]
        made: list[Encoder] = []
        with output.open(
            records,
            run,
            write=not stops,
            alone=not encoder.fitted_here,
            opener=lambda path, *_: VectorFile(path, made[0].dimension, made[0].settings()),
        ) as sink:
            made.append(found := encoder.open(records, run))
            if save and isinstance(found, Hashed):
                publish(Path(save), found.to_bytes())
            if not stops:
                for source, data in records.map(Pack(Encoded(found)), "encoding", rest=True):
                    sink.write(source, data)
    talk.report(records.counts, dimension=found.dimension, saved=save)

"""Write a page that shows scored records, selections and evaluations: figures, examples, how they were made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dselect.console import Run
from dselect.errors import DselectError, UsageError
from dselect.options import Argument, Option, RunOptions
from dselect.pool import Counts, Pool
from dselect.ranking import By
from dselect.records.beside import manifest_of
from dselect.records.fingerprints import unchanged
from dselect.records.publishing import publish
from dselect.records.sources import Source, discover
from dselect.reporting import chapters
from dselect.reporting.evaluations import Evaluation, compare
from dselect.reporting.markup import Html, page, tag
from dselect.reporting.survey import CONTAMINATION, Example, Survey, fetch
from dselect.reporting.views import View

Json = Mapping[str, Any]

_MOST_STEPS = 8
_NAMED = 12
_NO_SCORE = re.compile(r".*_cluster|id")  # labels: --field shows them all the same


@dataclass
class Shelf:
    """Files to tell of, each surveyed once however often it is asked for."""

    run: RunOptions
    talk: Run
    text: str
    names: Sequence[str]
    within: str
    counts: Counts = field(default_factory=Counts)
    _surveys: dict[str, Survey] = field(default_factory=dict)

    def open(self, sources: Sequence[Source], attributes: Sequence[Path] = ()) -> Pool:
        """Return these files as a pool."""
        jobs, alone = self.run.jobs, not self.run.asked
        return Pool(
            sources,
            text_field=self.text,
            jobs=jobs,
            few_alone=alone,
            progress=self.talk,
            attributes=attributes,
            rereads=True,
        )

    def survey(self, pool: Pool, names: Sequence[str]) -> Survey:
        """Return what the pool is like."""
        key = repr([[s.path and s.path.resolve() for s in pool.sources], list(names), list(pool.attributes)])
        if key not in self._surveys:
            self._surveys[key] = Survey.of(pool, names, self.within)
            self.counts.add(pool.counts)
        return self._surveys[key]


def command(
    paths: Annotated[
        list[str],
        Argument(metavar="FILE...", help="Scored records, selections (files or folders), eval's --json reports."),
    ],
    run: RunOptions,
    output: Annotated[str, Option("--output", "-o", metavar="FILE", help="The page: one HTML file.")],
    pool: Annotated[
        list[str] | None,
        Option(metavar="FILE", help="What the selections were made from. [default: what their manifests say]"),
    ] = None,
    fields: Annotated[
        list[str] | None,
        Option("--field", metavar="FIELD", help="Show this number, and others given. [default: all in a record]"),
    ] = None,
    within: Annotated[str, Option(metavar="FIELD", help="The field that names the domain.")] = "source",
    text: Annotated[str, Option(metavar="FIELD", help="The field that holds the text; dots reach inside.")] = "text",
    baseline: Annotated[
        str | None,
        Option(metavar="NAME", help="Of evaluations: what the others differ from. [default: the reports' own]"),
    ] = None,
) -> None:
    """Write a page that shows scored records, selections and evaluations: one HTML file that needs nothing else.

    What a file is, it says itself: *.json are evaluations; records whose manifest says that they were kept are a
    selection, shown beside the pool that the manifest names; others are shown alone.

    \b
    Example:
      dselect dsir pool.jsonl.zst --target target.jsonl.zst -o scored.jsonl.zst
      dselect select scored.jsonl.zst --by dsir --keep 10% -o picked.jsonl.zst
      dselect report picked.jsonl.zst -o report.html
    """
    reports = [path for path in paths if path.endswith(".json") and not path.endswith(".manifest.json")]
    kept = [path for path in paths if not path.endswith(".json")]
    if not reports and not kept:
        raise UsageError("nothing to show", way_out="name records or the reports of eval --json")
    _refuse_input([*reports, *kept, *(pool or ())], output)
    with Run("report", run) as talk:
        body: list[Html] = []
        shelf = Shelf(run, talk, text, fields or (), within)
        if reports:
            found = compare([Evaluation.read(path) for path in reports], baseline, run.seed)
            body.append(chapters.evaluations(found))
            shelf.counts.add(found.counts)
        views = [_view(shelf, path, pool) for path in kept]
        shown = {id(view.pool) for view, _ in views if view.selection is not None}
        for view, records in views:
            if view.selection is not None or id(view.pool) not in shown:
                body.append(chapters.records(view, _showing(records, within)))
        title = "Evaluations" if reports and not kept else "Selection report"
        named = [Path(path).name for path in paths]
        told = ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED:,} more files" if named[_NAMED:] else "")
        head = [tag("h1", title), tag("p", told, class_="soft")]
        publish(Path(output), page(title, *head, *body).encode(errors="replace"))
    talk.report(shelf.counts, files=len(paths))


def _refuse_input(paths: Sequence[str], output: str) -> None:
    for path in paths:
        if Path(output).exists() and Path(path).exists() and Path(path).samefile(output):
            raise DselectError("this output is one of the inputs", where=output)


def _showing(records: Pool, within: str) -> chapters.Show:
    def show(wanted: Any) -> Mapping[int, Example]:
        return fetch(records, np.asarray(wanted, np.uint64), within)

    return show


def _view(shelf: Shelf, path: str, pool: Sequence[str] | None) -> tuple[View, Pool]:
    """Return what to tell of a file or folder of records, and where its examples are."""
    manifest = manifest_of(Path(path))
    summary = _object(manifest.get("summary"))
    own = shelf.open(discover([path]))
    selects = bool(pool) or "kept" in summary
    sources: list[Source] = []
    attributes: list[Path] = []
    note = ""
    if pool:
        sources = discover(pool)
    elif selects:
        sources, attributes, note = _inputs(manifest, Path(path).parent)
    origin = shelf.open(sources, attributes) if sources else own
    settings = _object(_object(manifest.get("key")).get("settings"))
    by = _decided_by(settings)
    decided = [one.name for one in by]
    chosen = shelf.survey(own, shelf.names)
    names = list(shelf.names) or (list(dict.fromkeys([*decided, *chosen.names()])) if attributes else [])
    surveyed = shelf.survey(origin, names) if sources else chosen
    selection = chosen if sources else None
    known = dict.fromkeys([*surveyed.names(), *chosen.names()])
    for name in shelf.names:
        if chosen.total.documents and np.isnan([*surveyed.column(name), *chosen.column(name)]).all():
            raise DselectError(f'no record has a number in the field "{name}"', where=path, way_out="see --field")
    ranked = [name for name in dict.fromkeys([*decided, *shelf.names]) if name in known]
    ranked += [name for name in known if name not in (*ranked, CONTAMINATION) and not _NO_SCORE.fullmatch(name)]
    if selection is not None and (strangers := surveyed.strangers(selection)):
        note = f"{strangers:,} of its records, as far as the samples tell, are not in the pool."
    cut = summary.get("cut")
    view = View(
        name=Path(path).name,
        pool=surveyed,
        selection=selection,
        fields=ranked,
        by=[one for one in by if one.name in known],
        combine=str(settings.get("combine")),
        cut=float(cut) if isinstance(cut, float | int) and len(decided) == 1 and selection is not None else None,
        spread={name: _object(spread) for name, spread in _object(summary.get("spread")).items()},
        within=shelf.within,
        steps=_steps(Path(path)),
        note=note,
    )
    return view, origin


def _object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _decided_by(settings: Json) -> list[By]:
    """Return the fields that a selection was made by, as far as its options tell."""
    by = settings.get("by")
    named = by if isinstance(by, list) else [settings.get("field")]
    try:
        return [By.parse(str(one)) for one in named if one]
    except UsageError:
        return []


def _inputs(manifest: Json, beside: Path) -> tuple[list[Source], list[Path], str]:
    """Return the files that a manifest says were read, and folders of attributes; or why they cannot be shown."""
    sources = []
    try:
        for entry in manifest["inputs"]:
            path = next((p for p in (Path(entry["path"]), beside / entry["path"]) if unchanged(entry, p)), None)
            if path is None:
                gone = "size" in entry
                why = f"{entry['path']} is not as it was" if gone else "it came through a pipe"
                return [], [], f"What it was chosen from is not shown: {why}. --pool FILE names it."
            sources.append(Source(path, str(path), str(entry["name"])))
        named = _object(manifest.get("files")).get("attributes", ())
        folders = {str(entry["path"]).removesuffix(f"/{entry['name']}") for entry in named}
    except (LookupError, TypeError, ValueError, OSError):
        return [], [], "The manifest beside it cannot be understood, so what it was chosen from is not shown."
    return sources, [Path(folder) for folder in sorted(folders)], ""


def _steps(path: Path) -> list[tuple[str, Json]]:
    """Return the manifests of a file, of what it was made from, and so on: the last step first."""
    found: list[tuple[str, Json]] = []
    while len(found) < _MOST_STEPS and str(path) not in [name for name, _ in found]:
        name, manifest = path, manifest_of(path)
        for parent in list(path.parents)[:3] if not manifest else ():  # a shard of a folder
            if parent.name and (manifest := manifest_of(parent)):
                name = parent
                break
        if not manifest or str(name) in [one for one, _ in found]:
            break
        found.append((str(name), manifest))
        inputs = manifest.get("inputs")
        entry = _object(inputs[0]) if isinstance(inputs, list) and inputs else {}
        path = Path(str(entry.get("path") or "nothing"))
        path = path if path.exists() else name.parent / path
    return found

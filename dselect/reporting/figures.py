"""Figures as SVG that stands inside a page and takes the page's colours, light or dark."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dselect.console import printable
from dselect.errors import DselectError
from dselect.reporting.markup import Html

Floats = np.ndarray[Any, np.dtype[np.float64]]

# Colours that stand for the page's own until the drawing is done.
_COLOURS = {name: f"#0a0b{number:02x}" for number, name in enumerate(("ink", "soft", "line", "kept", "dropped", "cut"))}
_BINS = 60
_DOTS = 700  # of each kind: more would hide each other
_LONGEST_LABEL = 26
_FAR, _NEAR = 1e100, 1e-9  # numbers beyond lie at the edge; such a part of a number apart is no distance
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dselect",  # the same data give the same bytes
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["soft"],
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["soft"],
    "ytick.labelcolor": _COLOURS["soft"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def _drawing(height: float, heights: Sequence[int] = (1,)) -> Iterator[tuple[list[Any], list[Html]]]:
    """Give axes to draw on, one below the other; what was drawn is put into the list."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DselectError("a report is drawn by matplotlib", way_out="pip install 'dselect[report]'") from error
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its font cache
    drawn: list[Html] = []
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user's own settings are
        mpl.rcParams.update(_SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has other fonts
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes = figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights)
        yield list(axes[:, 0]), drawn
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn.append(_inline(out.getvalue().decode()))


def _inline(svg: str) -> Html:
    """Return the drawing without what only a file needs, in the colours and the font of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Html(svg)


def histogram(kept: Floats, dropped: Floats, scale: float, cut: float | None, *, log: bool) -> Html:
    """Draw how many records have which value, those kept upon those dropped, and below that those kept alone.

    scale: records that one stands for. log: the values by decades. The outermost 0.1 % at either side are counted in
    the last bins, or a few far values would leave no room.
    """
    values = np.clip(np.concatenate([kept, dropped]), -_FAR, _FAR)
    low, high = np.quantile(values, [0.001, 0.999])
    if cut is not None and abs(cut) < _FAR:
        low, high = min(low, cut), max(high, cut)
    if high - low <= _NEAR * max(abs(low), abs(high), _NEAR):
        low, high = low - max(0.5, abs(low) / 2), high + max(0.5, abs(high) / 2)
    edges = np.geomspace(max(low, 1), max(high, 2), _BINS + 1) if log else np.linspace(low, high, _BINS + 1)
    two = bool(len(kept) and len(dropped))
    counts = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0] * scale for part in (kept, dropped)]
    with _drawing(3.4 if two else 2.7, [3, 1] if two else [1]) as (whole, drawn):
        stacks = [("dropped", counts[1], 0 * counts[0]), ("kept", counts[0], counts[1])]
        for axes, parts in zip(whole, (stacks, [("kept", counts[0], 0 * counts[0])]), strict=False):
            for colour, part, below in parts:
                axes.bar(edges[:-1], part, np.diff(edges), below, align="edge", color=_COLOURS[colour], linewidth=0)
            if cut is not None:
                axes.axvline(cut, color=_COLOURS["cut"], linewidth=1.4)
            axes.margins(x=0.01)
            axes.yaxis.set_major_formatter(_thousands)
            axes.yaxis.get_major_locator().set_params(integer=True)
        whole[0].set_ylabel("records")
        if two:
            whole[1].set_ylabel("kept")
        if log:
            _by_decades(whole[-1])
    return drawn[0]


def scatter(across: Floats, up: Floats, inside: Any, names: tuple[str, str], *, log: bool) -> Html:
    """Draw one number of each record against another, those kept upon those dropped; log: the first, by decades."""
    with _drawing(3.0) as ((axes,), drawn):
        for chosen, colour, size, alpha in ((~inside, "dropped", 4, 0.45), (inside, "kept", 5, 0.6)):
            at = np.flatnonzero(chosen)[:_DOTS]  # a sample's order is by hash, so the first ones are a sample
            axes.scatter(
                np.clip(across[at], -_FAR, _FAR),
                np.clip(up[at], -_FAR, _FAR),
                size,
                color=_COLOURS[colour],
                alpha=alpha,
                linewidths=0,
            )
        if log:
            _by_decades(axes)
        axes.set_xlabel(_label(names[0]))
        axes.set_ylabel(_label(names[1]))
        axes.ticklabel_format(axis="y", useOffset=False)
    return drawn[0]


def whiskers(names: Sequence[str], middles: Sequence[float], bounds: Sequence[tuple[float, float]], zero: str) -> Html:
    """Draw numbers with their intervals, one below the other; zero: what lies at 0, or "" for nothing."""
    at = np.arange(len(names))[::-1]
    with _drawing(0.9 + 0.27 * len(names)) as ((axes,), drawn):
        if zero:
            axes.axvline(0, color=_COLOURS["soft"], linewidth=1, linestyle=(0, (3, 3)))
        lows, highs = (np.array([bound[side] for bound in bounds]) for side in (0, 1))
        axes.hlines(at, lows, highs, color=_COLOURS["kept"], linewidth=2)
        axes.plot(middles, at, "o", color=_COLOURS["kept"], markersize=5)
        axes.set_yticks(at, [_label(name) for name in names], color=_COLOURS["ink"])
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=_COLOURS["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"bits per byte, difference to {_label(zero)}" if zero else "bits per byte")
    return drawn[0]


def _label(name: str) -> str:
    shown = printable(name[: _LONGEST_LABEL + 1])
    return shown if len(shown) <= _LONGEST_LABEL else f"{shown[: _LONGEST_LABEL - 1]}…"


def _by_decades(axes: Any) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_thousands)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _thousands(value: float, _: object) -> str:
    return f"{value:,.0f}"

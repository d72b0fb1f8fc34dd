"""The page's plots: one engine's figures to SVG, drawn by matplotlib.

The same figures give the same bytes: no date, no random names. Text stays text, in the page's own font, so that it
can be selected and read aloud. matplotlib is imported inside: it costs a second, and a parsed DAG needs none of it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from plugins.performance.document import mapping
from plugins.performance.words import axes, figure, percent, shapes, short
from sluice.cost import known

INK, MUTED, LINE = "#1f2933", "#5b6770", "#dde2e7"
THIS, DEVICE, BEFORE, OTHER, BAR = "#0b5cad", "#7fb2e5", "#3e4c59", "#a9b4be", "#b42318"
WIDE, HALF = 10.6, 5.15  # inches; 72 points each, and a point is about a CSS pixel where the page shows it
ROW, EDGE = 0.27, 0.95  # inches: of one row, of title, axis and legend together
RANGE: Final = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sluice",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": MUTED,
}


def speed(name: str, one: Mapping[str, Any]) -> str:
    """Latency and throughput of every shape, side by side on the same rows; the champion's where there is one."""
    timings, theirs = mapping(one.get("timings")), mapping(mapping(one.get("champion")).get("timings"))
    rows = shapes(timings)

    def draw(figure_: Any) -> None:
        left, right = figure_.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
        _latency(left, rows, timings, theirs)
        _throughput(right, rows, timings, theirs)
        left.set_yticks(range(len(rows)), [short(shape) for shape in rows])
        left.set_ylabel(axes(rows))
        left.set_ylim(len(rows) - 0.4, -0.6)

    return _svg(name, (WIDE, EDGE + 0.3 + ROW * len(rows)), draw)


def accuracy(name: str, one: Mapping[str, Any]) -> str:
    """How far every candidate's worst sample is from FP32, and how far its bar lets it be; left is better."""
    rows = [
        (
            f"{candidate}, {output}" if len(mapping(found["accuracy"])) > 1 else candidate,
            candidate,
            found,
            told,
        )
        for candidate, found in mapping(one.get("candidates")).items()
        for output, told in mapping(found.get("accuracy")).items()
    ]

    def draw(figure_: Any) -> None:
        axis = figure_.subplots()
        for place, (_, candidate, found, told) in enumerate(rows):
            chosen = candidate == one.get("chosen")
            far, limit = _far(told.get("cosine_min")), _far(found.get("bar"))
            axis.plot([far], [place], marker="o", ms=7, color=THIS if chosen else OTHER, zorder=4)
            axis.plot([limit, limit], [place - 0.38, place + 0.38], color=BAR, lw=2, zorder=3)
            cosine = told.get("cosine_min")
            _beside(axis, place, "no number" if cosine is None else f"cosine {cosine:.7g}")
        axis.set_xscale("log")
        axis.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title("Accuracy: distance from FP32")
        axis.set_xlabel("1 - least cosine, log scale")
        _legend(
            axis, [("chosen", THIS, "o"), ("not chosen", OTHER, "o"), ("bar: left of it passes", BAR, "|")]
        )
        _plain(axis)

    return _svg(name, (HALF, EDGE + 0.3 + ROW * len(rows)), draw)


def layers(name: str, slowest: Sequence[Mapping[str, Any]]) -> str:
    """The slowest layers of the chosen engine, slowest on top."""

    def draw(figure_: Any) -> None:
        axis = figure_.subplots()
        times = [known(layer.get("ms")) or 0.0 for layer in slowest]
        axis.barh(range(len(slowest)), times, height=0.62, color=THIS, zorder=2)
        for place, layer in enumerate(slowest):
            _beside(axis, place, f"{figure(layer.get('ms'), 'ms')}, {percent(layer.get('share'))}")
        axis.set_xlim(0, (max(times) or 1.0) * 1.04)
        axis.set_yticks(range(len(slowest)), [_shortened(str(layer.get("name"))) for layer in slowest])
        axis.set_ylim(len(slowest) - 0.4, -0.6)
        axis.set_title("Slowest layers")
        axis.set_xlabel("ms of one run, and the share of it")
        _plain(axis)

    return _svg(name, (HALF, EDGE + ROW * len(slowest)), draw)


def _latency(axis: Any, rows: Sequence[str], timings: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    seen = set()
    for place, shape in enumerate(rows):
        now, before = mapping(timings[shape]), mapping(theirs.get(shape))
        spread = [value for value in (known(now.get(name)) for name in RANGE) if value]
        axis.plot(spread, [place] * len(spread), color=THIS, lw=1.6, marker="|", ms=7, mew=1.6, zorder=3)
        for key, value, colour in (
            ("device", now.get("device_p50_ms"), DEVICE),
            ("p50", now.get("p50_ms"), THIS),
        ):
            if known(value):
                seen.add(key)
                axis.plot([value], [place], marker="o", ms=6, color=colour, zorder=4)
        if known(before.get("p50_ms")):
            seen.add("before")
            _mark(axis, place, before["p50_ms"])
    axis.set_xscale("log")
    _plain_ticks(axis)
    axis.set_title("Latency")
    axis.set_xlabel("ms, log scale")
    legend = [
        ("p50", THIS, "o"),
        ("p90, p95, p99", THIS, "|"),
        ("device", DEVICE, "o"),
        ("before", BEFORE, "|"),
    ]
    names = {"device": "GPU alone, p50", "before": "champion, p50"}
    _legend(axis, [(names.get(k, k), c, m) for k, c, m in legend if k not in names or k in seen])
    _plain(axis)


def _throughput(
    axis: Any, rows: Sequence[str], timings: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    now = [known(mapping(timings[shape]).get("rows_per_s")) or 0.0 for shape in rows]
    before = [known(mapping(theirs.get(shape)).get("rows_per_s")) for shape in rows]
    axis.barh(range(len(rows)), now, height=0.55, color=THIS, zorder=2)
    for place, value in enumerate(before):
        if value:
            _mark(axis, place, value)
        end = max(now[place], value or 0.0)
        axis.annotate(figure(now[place]), (end, place), (5, 0), textcoords="offset points", va="center")
    axis.set_xlim(0, max([*now, *(value or 0.0 for value in before), 1e-9]) * 1.16)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_title("Throughput")
    axis.set_xlabel("rows per second")
    _legend(axis, [("this version", THIS, "s"), *([("champion", BEFORE, "|")] if any(before) else [])])
    _plain(axis)


def _mark(axis: Any, place: int, value: float) -> None:
    """The champion's figure: a line as high as the row, the same in both panels."""
    axis.plot([value, value], [place - 0.38, place + 0.38], color=BEFORE, lw=2, zorder=5)


def _beside(axis: Any, place: int, text: str) -> None:
    """Words at the right edge of a row, in one column."""
    across = axis.get_yaxis_transform()  # x in parts of the axis, y in rows
    axis.text(1.03, place, text, transform=across, va="center", fontsize=8.5)


def _far(cosine: Any) -> float:
    """1 - cosine, at least 1e-8 for the log scale; a number that is missing is as far as can be."""
    return max(1.0 - cosine, 1e-8) if isinstance(cosine, int | float) else 2.0


def _plain(axis: Any) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0, which="both")
    axis.grid(axis="x", color=LINE, lw=0.8, zorder=0)


def _plain_ticks(axis: Any) -> None:
    """1, 2, 5 and 10 as they are spoken instead of powers of ten; closer where all values are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_xlim()
    subs = (1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(axis: Any, marks: Sequence[tuple[str, str, str]]) -> None:
    """Below the axis: (label, colour, marker)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=mark, ls="", ms=8 if mark == "|" else 6, mew=1.8)
        for _, colour, mark in marks
    ]
    axis.figure.legend(
        handles,
        [label for label, *_ in marks],
        loc="outside lower left" if axis is axis.figure.axes[0] else "outside lower right",
        ncols=len(marks),
        handletextpad=0.2,
        columnspacing=1.2,
    )


def _shortened(name: str, limit: int = 34) -> str:
    """The end of a layer's name tells more than its beginning."""
    return name if len(name) <= limit else "…" + name[1 - limit :]


def _svg(name: str, inches: tuple[float, float], draw: Any) -> str:
    """The `<svg>` element alone, its ids begun with `name` so that several fit into one page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=inches, layout="constrained")
        draw(drawn)
        text = io.StringIO()
        drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font: [^'\";]*?[\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )

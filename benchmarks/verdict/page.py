"""The results of `benchmarks.verdict` as a page for people. Pure: the JSON object in, Markdown out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.page import MARKS, table
from benchmarks.verdict.measure import OURS
from benchmarks.verdict.peers import POLICIES

HEALTHY_COLUMNS: Final = (
    "cell",
    "n",
    "turned back (at most)",
    "at 100 % within 4 h",
    "median min to 100 %",
    "held, why",
)
BAD_COLUMNS: Final = (
    *("cell", "fault", "n", "at 100 % (at most)", "turned back before 50 %", "median s to harm"),
    *("share of 4 h's requests", "held"),
)
PEER_COLUMNS: Final = ("cell", "fault", OURS, *POLICIES)
TWIN_COLUMNS: Final = (
    "twin",
    "what it breaks",
    "n",
    "the twin",
    "at least",
    "the product",
    "at most",
    "fails",
)
EXPOSURE_COLUMNS: Final = ("cell", "rho", "share of 4 h's requests", "information bound", "judged")
CHECKS: Final = ("what", "wanted", "got", "result")
READING: Final = (
    "*Turned back* is a harm verdict at any stage, the watch at 100 % included; *at most* is the upper end of the 95 % "
    "Clopper-Pearson interval. A bad version counts as promoted once it is at 100 %, even if the watch then turns it "
    "back. Detection runs from the fault to the guard's verdict, the log's delay and the guard's tick included; it "
    "reads the gateways' own log, so no scrape is in it. Exposure is the mean share of a four-hour window's requests "
    "that the bad version served. The information bound is what a test would need that knows both rates, looks at one "
    "kind alone and spends the whole alpha on it."
)

BESIDE: Final = (
    "Healthy: turned back. Bad: promoted. Every policy reproduces an independent simulation of it before it is "
    "compared here; all see their readings at once, which flatters them by 15 to 75 s."
)


def page(result: Mapping[str, Any], plots: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page. plots: (title, file beside the page)."""
    figures = result["figures"]
    cells = figures["cells"]
    parts = [
        "# How often a verdict is wrong",
        _made(result),
        READING,
        "## What was promised",
        table(("line", "target", "result"), map(_promise, result["acceptance"])),
        *(f"![{title}]({name})" for title, name in plots),
        "## A healthy version",
        table(HEALTHY_COLUMNS, _healthy(cells)),
        "## A bad version",
        "Faults whose rate stays below the objective (failures 0.5 %) may pass; they are marked *below the objective*.",
        table(BAD_COLUMNS, _bad(cells)),
        "## Beside other tools",
        BESIDE,
        table(PEER_COLUMNS, _peers(cells)),
        "## Exposure",
        table(EXPOSURE_COLUMNS, map(_exposure, figures["exposure"])),
        "## Broken twins",
        table(TWIN_COLUMNS, map(_twin, figures["twins"])),
        "## Line by line",
        *_checks(result["acceptance"]),
    ]
    return "\n\n".join(parts) + "\n"


def _made(result: Mapping[str, Any]) -> str:
    hardware, n = result["hardware"], result["n"]
    missing = result["figures"]["missing"]
    whole = f"{len(missing)} are missing" if missing else "none is missing"
    return (
        f"Made by `python -m benchmarks.verdict --json`: {len(result['figures']['cells'])} cells, {n['rollouts']} "
        f"seeded rollouts of ours a cell and {n['peers']} of each other tool, dealt to the cell's faults (half to the "
        f"healthy version), seed {n['seed']}. Of the pairs of cell, fault and tool {whole}. "
        f"Machine: {hardware['cpu']}, {hardware['cores']} cores."
    )


def _promise(line: Mapping[str, Any]) -> Sequence[Any]:
    mark = MARKS[line["holds"]]
    misses = sum(row["holds"] is False for row in line["value"] or ())
    return (
        line["id"],
        line["target"],
        f"{mark}: {misses} of {len(line['value'])} checks" if misses else mark,
    )


def _healthy(cells: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    for cell in cells:
        one = cell["faults"].get("healthy", {}).get(OURS)
        if one is not None:
            yield (
                _named(cell), one["n"], _rate(one, "turned_back"), _percent(one["rates"]["reached_100"]["rate"]),
                _minutes(one["median_reached_s"]), _held(one),
            )  # fmt: skip


def _bad(cells: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    for cell in cells:
        for name, policies in cell["faults"].items():
            if name == "healthy" or OURS not in policies:
                continue
            one = policies[OURS]
            found = one["median_found_s"]
            mark = ", below the objective" if name in cell["below_objective"] else ""
            yield (
                cell["cell"], name + mark, one["n"], _rate(one, "reached_100"),
                _percent(one["rates"]["turned_back_before_50"]["rate"]), None if found is None else f"{found:.0f}",
                f"{100 * one['mean_exposure']:.3f} %", _held(one),
            )  # fmt: skip


def _peers(cells: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    for cell in cells:
        for name, policies in cell["faults"].items():
            if len(policies) > 1:
                key = "turned_back" if name == "healthy" else "reached_100"
                shares = [
                    policies[policy]["rates"][key]["rate"] if policy in policies else None
                    for policy in PEER_COLUMNS[2:]
                ]
                yield (cell["cell"], name, *(None if share is None else _percent(share) for share in shares))


def _exposure(one: Mapping[str, Any]) -> Sequence[Any]:
    share = None if one["share"] is None else f"{100 * one['share']:.4f} %"
    return (
        one["cell"],
        f"{one['rho']:g}",
        share,
        f"{100 * one['bound']:.4f} %",
        "yes" if one["judged"] else "listed",
    )


def _twin(one: Mapping[str, Any]) -> Sequence[Any]:
    counts = (
        one["twin_count"],
        _percent(one["twin_low"]),
        one["product_count"],
        _percent(one["product_high"]),
    )
    return (one["twin"], one["breaks"], one["n"], *counts, "yes" if one["fails"] else "**no**")


def _checks(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of every line that was run: what misses, or that all hold."""
    for line in lines:
        rows = [row for row in line["value"] or () if row["holds"] is not True]
        if line["value"] is None:
            continue
        yield f"### {line['id']}"
        yield table(CHECKS, map(_check, rows)) if rows else f"All {len(line['value'])} checks hold."


def _check(row: Mapping[str, Any]) -> Sequence[Any]:
    got = None if row["got"] is None else f"{row['got']:.4g}"
    return (row["what"], row["wanted"], got, MARKS[row["holds"]])


def _named(cell: Mapping[str, Any]) -> str:
    return f"{cell['cell']} ({cell['why']})" if cell["why"] else cell["cell"]


def _held(one: Mapping[str, Any]) -> str | None:
    if not one["held"]:
        return None
    why = next(iter(one["why_held"]), "")
    return f"{_percent(one['rates']['held']['rate'])}: {why}"


def _rate(one: Mapping[str, Any], key: str) -> str:
    return f"{_percent(one['rates'][key]['rate'])} ({_percent(one['rates'][key]['high'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _minutes(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds / 60:.1f}"

"""Each line of the promise, from the figures of the same object. Pure.

Invariant: a pair of cell and fault that was not measured leaves a line undecided or false, never true; so does a
rate without rollouts. A bound is the upper (or lower) end of a 95 % Clopper-Pearson interval.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.verdict.bounds import clopper_pearson, sprt_floor
from benchmarks.verdict.cells import CELLS, HEALTHY, Cell, Fault
from benchmarks.verdict.setting import GATES, HORIZON_S
from benchmarks.verdict.targets import NOT_RUN, TARGETS

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]  # cell -> fault -> figures of ours
Row = dict[str, Any]

LIMIT: Final = 0.01
POOLED: Final = 0.005
FOUND_S: Final = {10.0: 60.0, 4.0: 360.0, 2.0: 720.0}
FLOOR_TIMES: Final = 2.0
EXPOSURE: Final = {10.0: 0.001, 4.0: 0.002, 2.0: 0.006}
LATE_S: Final = {4.0: 180.0, 2.0: 600.0}
REACHED_S: Final = 1200.0
EVALUATION_MS: Final = 1.0


def acceptance(
    figures: Figures, twins: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """[{id, target, value, holds, reason?}], every line in order."""
    rows: dict[str, list[Row]] = {
        "verdict.1": false_alarms(figures),
        "verdict.2": false_promotes(figures),
        "verdict.3": detection(figures),
        "verdict.5": exposure(figures),
        "verdict.6": speed(figures),
        "verdict.7": partial(figures),
        "verdict.8": late(figures),
        "verdict.12": twins_fail(twins),
        "verdict.13": evaluation_time(evaluation),
    }
    return [_line(name, rows.get(name)) for name in TARGETS]


def _line(name: str, rows: list[Row] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"id": name, "target": TARGETS[name], "value": rows}
    if name in NOT_RUN or rows is None:
        return {**line, "holds": None, "reason": "not run"}
    judged = [row["holds"] for row in rows]
    holds = False if False in judged else None if None in judged or not judged else True
    reason = "; ".join(_why(row) for row in rows if row["holds"] is not True)
    return {**line, "holds": holds, **({"reason": reason} if reason else {})}


def _why(row: Row) -> str:
    if row["got"] is None:
        return f"{row['what']}: {row.get('why') or 'not measured'}"
    why = f" ({row['why']})" if row.get("why") else ""
    return f"{row['what']}: {row['got']:.4g}, wanted {row['wanted']}{why}"


def row(what: str, wanted: str, got: float | None, holds: Callable[[float], bool], **more: Any) -> Row:
    """One check; undecided without a figure, and NaN never holds."""
    return {
        "what": what,
        "wanted": wanted,
        "got": got,
        "holds": None if got is None else bool(holds(got)),
        **more,
    }


def of(figures: Figures, cell: Cell, fault: Fault) -> Mapping[str, Any] | None:
    """The figures of a pair; None when it was not measured."""
    found = figures.get(cell.name, {}).get(fault.name)
    return found if found and found["n"] > 0 else None


def upper(found: Mapping[str, Any] | None, key: str) -> float | None:
    """The upper bound of a rate."""
    return None if found is None else clopper_pearson(found[key], found["n"])[1]


def pairs(chosen: Callable[[Cell, Fault], bool]) -> Iterable[tuple[Cell, Fault]]:
    """Of the whole list of cells, measured or not."""
    return ((cell, fault) for cell in CELLS for fault in cell.faults if chosen(cell, fault))


def false_alarms(figures: Figures) -> list[Row]:
    """Line 1."""
    out, turned, many, whole = [], 0, 0, True
    for cell, fault in pairs(lambda cell, fault: fault == HEALTHY):
        found = of(figures, cell, fault)
        whole &= found is not None
        if found is not None:
            turned, many = turned + found["turned_back"], many + found["n"]
        bound = upper(found, "turned_back")
        out.append(
            row(f"{cell.name}: turned back", "at most 0.01", bound, lambda got: got <= LIMIT, why=cell.why)
        )
    pooled = clopper_pearson(turned, many)[1] if whole and many else None
    return [row("all cells pooled: turned back", "at most 0.005", pooled, lambda got: got <= POOLED), *out]


def above_objective(cell: Cell, fault: Fault) -> bool:
    """Whether the fault is one that must not pass: a latency, or failures twice stable's above the objective."""
    if fault.shape is not None:
        return True
    return (
        fault.rho >= 2
        and fault.where == "everywhere"
        and fault.rho * cell.world.base > GATES.objectives["failure"]
    )


def below_objective(cell: Cell, fault: Fault) -> bool:
    """Whether the fault leaves the whole candidate below the objective for failures, so that it may pass."""
    return (
        fault.rho > 1
        and fault.where == "everywhere"
        and fault.rho * cell.world.base <= GATES.objectives["failure"]
    )


def false_promotes(figures: Figures) -> list[Row]:
    """Line 2: at 100 % is promoted, unless the fault only begins there; then it is to pass the watch."""
    out = []
    for cell, fault in pairs(above_objective):
        key = "promoted" if fault.begins[0] == 3 else "reached_100"
        bound = upper(of(figures, cell, fault), key)
        what = f"{cell.name}, {fault.name}: promoted"
        out.append(row(what, "at most 0.01", bound, lambda got: got <= LIMIT))
    return out


def detection(figures: Figures) -> list[Row]:
    """Line 3."""
    centre, out = CELLS[0], []
    for rho, limit_s in FOUND_S.items():
        found = of(figures, centre, Fault(rho=rho))
        got = None if found is None else found["median_found_s"]
        out.append(
            row(f"rho {rho:g}: median s to harm", f"at most {limit_s:g}", got, lambda s, m=limit_s: s <= m)
        )
        if rho > 2:
            floor = sprt_floor(centre.world.base, rho)
            used = (
                None
                if found is None or found["median_requests"] is None
                else found["median_requests"] / floor
            )
            what, wanted = (
                f"rho {rho:g}: median candidate requests by the SPRT floor",
                f"at most {FLOOR_TIMES:g}",
            )
            out.append(row(what, wanted, used, lambda times: times <= FLOOR_TIMES, floor=floor))
    return out


def exposure(figures: Figures) -> list[Row]:
    """Line 5: of the cells that it names; `exposures` lists all."""
    out = []
    for one in exposures(figures):
        if one["judged"]:
            limit = EXPOSURE[one["rho"]]
            what = f"{one['cell']}, rho {one['rho']:g}: mean share of 4 h's requests"
            out.append(row(what, f"at most {limit:g}", one["share"], lambda share, m=limit: share <= m))
    return out


def exposures(figures: Figures) -> list[dict[str, Any]]:
    """[{cell, rho, share, bound, judged}] of every cell with a fleet-wide fault from the start; bound: by the floor."""
    out = []
    for cell, fault in pairs(lambda cell, fault: fault.rho in EXPOSURE and fault.begins == (0, 0.0)):
        if fault.where != "everywhere":
            continue
        world, found = cell.world, of(figures, cell, fault)
        out.append(
            {
                "cell": cell.name,
                "rho": fault.rho,
                "share": None if found is None else found["mean_exposure"],
                "bound": sprt_floor(world.base, fault.rho) / (world.rps * HORIZON_S),
                "judged": world.rps == 200 and world.users == 20_000 and world.base >= 0.005,
            }
        )
    return out


def speed(figures: Figures) -> list[Row]:
    """Line 6."""
    out = []
    for cell, fault in pairs(lambda cell, fault: fault == HEALTHY):
        world, found = cell.world, of(figures, cell, fault)
        large = world.users >= 20_000 and world.rps >= 200
        if not large and world.users != 2000:
            continue
        least = 0.95 if large else 0.7
        share = None if found is None else (found["reached_100"] - found["turned_back_in_watch"]) / found["n"]
        what = f"{cell.name}: promoted within 4 h"
        out.append(row(what, f"at least {least:g}", share, lambda got, m=least: got >= m, why=cell.why))
        if large:
            median = None if found is None else found["median_reached_s"]
            what, wanted = f"{cell.name}: median s to 100 %", f"at most {REACHED_S:g}"
            out.append(row(what, wanted, median, lambda got: got <= REACHED_S))
    planner = row("the planner's reason for the rest", "given before the start", None, bool, why="not run")
    return [*out, planner]


def partial(figures: Figures) -> list[Row]:
    """Line 7, of the centre cell."""
    out = []
    for where, key in (
        ("one architecture", "turned_back_before_50"),
        ("long inputs", "turned_back_before_100"),
    ):
        found = of(figures, CELLS[0], Fault(rho=10.0, where=where))  # type: ignore[arg-type]
        share = None if found is None else found[key] / found["n"]
        what = f"bad on {where}: {key.replace('_', ' ')} %"
        out.append(row(what, "at least 0.99", share, lambda got: got >= 0.99))
    return out


def late(figures: Figures) -> list[Row]:
    """Line 8."""
    cell = next(cell for cell in CELLS if cell.name == "fault 60 min into 50 %")
    out = []
    for rho, limit_s in LATE_S.items():
        found = of(figures, cell, Fault(rho=rho, begins=(2, 3600.0)))
        got = None if found is None else found["median_found_s"]
        out.append(
            row(f"rho {rho:g}: median s to harm", f"at most {limit_s:g}", got, lambda s, m=limit_s: s <= m)
        )
    return out


def twins_fail(twins: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Line 12: the lower bound of each twin's rate is above what the product is held to."""
    return [
        row(f"{one['twin']}: {one['breaks']}", "above 0.01", one["twin_low"], lambda got: got > LIMIT)
        for one in twins
    ]


def evaluation_time(evaluation: Mapping[str, Any]) -> list[Row]:
    """Line 13."""
    return [
        row(f"{name} picture: median ms", "below 1", one["p50_ms"], lambda got: got < EVALUATION_MS)
        for name, one in evaluation.items()
    ]

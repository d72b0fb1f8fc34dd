"""Everything measured, as one JSON object with what was promised and whether it holds. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.verdict.acceptance import acceptance, below_objective, exposures
from benchmarks.verdict.bounds import clopper_pearson, sprt_floor
from benchmarks.verdict.cells import CELLS, Cell
from benchmarks.verdict.measure import OURS
from benchmarks.verdict.peers import POLICIES

RATES: Final = (
    "turned_back",
    "reached_100",
    "promoted",
    "held",
    "turned_back_before_50",
    "turned_back_before_100",
)


def result(
    hardware: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
    twins: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    n: Mapping[str, Any],
) -> dict[str, Any]:
    """{benchmark, hardware, n, figures, acceptance}. found: {cell: {fault: {policy: figures}}}; n: what was asked."""
    ours = {
        cell: {fault: rows[OURS] for fault, rows in faults.items() if OURS in rows}
        for cell, faults in found.items()
    }
    return {
        "benchmark": "verdict",
        "hardware": dict(hardware),
        "n": dict(n),
        "figures": {
            "cells": [_cell(cell, found.get(cell.name, {})) for cell in CELLS],
            "missing": missing(found),
            "exposure": exposures(ours),
            "floor_requests": {
                f"base {base:g}, rho {rho:g}": sprt_floor(base, rho)
                for base in sorted({cell.world.base for cell in CELLS})
                for rho in (2.0, 4.0, 10.0)
            },
            "twins": list(twins),
            "evaluation": dict(evaluation),
        },
        "acceptance": acceptance(ours, twins, evaluation),
    }


def missing(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Pairs of cell and fault, and policy, without a rollout."""
    return [
        f"{cell.name}, {fault.name}: {policy}"
        for cell in CELLS
        for fault in cell.faults
        for policy in (OURS, *POLICIES)
        if not found.get(cell.name, {}).get(fault.name, {}).get(policy, {}).get("n")
    ]


def _cell(cell: Cell, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "why": cell.why,
        "faults": {
            fault.name: {policy: with_bounds(one) for policy, one in found.get(fault.name, {}).items()}
            for fault in cell.faults
        },
        "below_objective": [fault.name for fault in cell.faults if below_objective(cell, fault)],
    }


def with_bounds(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with each count's rate and its 95 % interval beside it."""
    rates = {}
    for key in RATES:
        low, high = clopper_pearson(figures[key], figures["n"])
        rates[key] = {"rate": figures[key] / figures["n"], "low": low, "high": high}
    return {**figures, "rates": rates}

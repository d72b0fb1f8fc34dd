"""Two pictures of the result: false alarms by tool and cell, and what each tool lets through."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.verdict.measure import OURS
from benchmarks.verdict.peers import POLICIES

PICTURES: Final = (
    ("Healthy versions turned back, by cell", "verdict_healthy.svg", "healthy", "turned_back"),
    ("Versions that fail twice as often promoted, by cell", "verdict_rho2.svg", "rho 2", "reached_100"),
)


def plots(result: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Write the pictures into the folder; (title, file name) of each. Cells without the fault are left out."""
    out = []
    for title, name, fault, key in PICTURES:
        cells = [cell for cell in result["figures"]["cells"] if OURS in cell["faults"].get(fault, {})]
        if cells:
            _draw(title, cells, fault, key, folder / name)
            out.append((title, name))
    return out


def _draw(title: str, cells: Sequence[Mapping[str, Any]], fault: str, key: str, path: Path) -> None:
    import matplotlib as mpl  # here: only a page needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "verdict"  # equal results give equal files
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.32 * len(cells) + 1.6), layout="constrained")
    places = range(len(cells))
    for policy, marker in zip((OURS, *POLICIES), "osv^xP", strict=True):
        shares = [100 * _share(cell["faults"][fault].get(policy), key) for cell in cells]
        size = 60 if policy == OURS else 26
        axes.scatter(shares, places, s=size, marker=marker, label=policy, zorder=3 if policy == OURS else 2)
    axes.set_yticks(places, [cell["cell"] for cell in cells], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xticks([0, 0.5, 1, 10, 50, 100], ["0", "0.5", "1", "10", "50", "100"])
    axes.set_xlabel("% of rollouts")
    axes.axvline(1.0, linewidth=0.8, color="black", linestyle=":")
    axes.grid(axis="y", linewidth=0.3)
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _share(one: Mapping[str, Any] | None, key: str) -> float:
    return float("nan") if one is None else float(one["rates"][key]["rate"])

"""What a person reads about a version in MLflow and before a review: Markdown, made from the receipts.

Pure: facts in, text out. A number that is missing shows as a dash, never as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.manifest import OF_ENGINE, EngineManifest
from sluice.release import Release

DASH: Final = "—"
OUTCOME: Final = "### Outcome"
WORST_ROWS: Final = 5
REPORTS: Final = (
    "Among the artifacts: `performance/report.html` shows latency, throughput, memory and layers beside the "
    "champion's, `accuracy/index.html` how each engine's accuracy was judged."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """One built engine: its manifest, its report (may be empty) and why its precision was chosen."""

    manifest: EngineManifest
    report: Mapping[str, Any]
    reason: str
    cost_per_million: float | None = None  # None: unknown


def card(
    release: Release,
    *,
    checkpoint: str,
    numerics: Sequence[Mapping[str, Any]],
    engines: Sequence[EngineFacts],
    missing: Sequence[str],
) -> str:
    """The description of a new version. missing: optional targets that could not be built."""
    spec = release.spec
    parts = [
        f"### {spec.service}: release `{release.digest[:12]}`",
        f"Checkpoint `{checkpoint}` (`{release.checkpoint_sha256[:12]}`), ONNX opset {spec.model.opset}.",
        "#### Chosen engines",
        _chosen(engines),
        *_not_measured(engines),
        *(f"**Not built** (optional): `{arch}`" for arch in missing),
        REPORTS,
        "#### Measured per precision",
        _candidates(engines),
        f"#### PyTorch against ONNX Runtime: the worst {min(WORST_ROWS, len(numerics))} of {len(numerics)} rows",
        _numerics(release, numerics),
    ]
    return "\n\n".join(parts)


def outcome_card(outcome: str, reason: str, verdict: Mapping[str, Any] | None, exposed: Any) -> str:
    """How a rollout ended: the run's note, and what is put above the version's description."""
    lines = [OUTCOME, f"**{outcome.replace('_', ' ').capitalize()}**: {reason}"]
    numbers = (verdict or {}).get("numbers") or {}
    flat = [(name, value) for name, value in _flat(numbers) if value is not None]
    if flat:
        lines.append(table(("evidence", "value"), [(name, number(value)) for name, value in flat[:40]]))
    if isinstance(exposed, Mapping) and exposed:
        said = ", ".join(f"{name.replace('_', ' ')}: {number(value)}" for name, value in _flat(exposed))
        lines.append(f"Exposed: {said}.")
    return "\n\n".join(lines)


def verdict_markdown(verdict: Mapping[str, Any]) -> str:
    """A verdict for a reviewer: its reason and its numbers."""
    rows = [(name, number(value)) for name, value in _flat(verdict.get("numbers") or {})]
    head = f"**{verdict.get('action', 'no verdict')}**: {verdict.get('reason', 'no reason given')}"
    return f"{head}\n\n{table(('evidence', 'value'), rows)}" if rows else head


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def number(value: Any) -> str:
    """A number with at most four significant digits; a dash for what is missing or not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _chosen(engines: Sequence[EngineFacts]) -> str:
    figures_of = ("p50 ms", "p99 ms", "rows per second", "peak MiB", "cost per million")
    header = ("target", "precision", *figures_of, "accuracy", "why")
    rows = []
    for engine in engines:
        made, speed = engine.manifest, engine.manifest.performance
        figures = (number(speed.get(name)) for name in ("p50_ms", "p99_ms", "rows_per_s"))
        memory = _mib(speed.get("peak_memory_bytes"))
        accuracy = _accuracy(made.accuracy)
        target, cost = f"`{made.arch}`", number(engine.cost_per_million)
        rows.append((target, f"**{made.precision}**", *figures, memory, cost, accuracy, engine.reason))
    return table(header, rows)


def _not_measured(engines: Sequence[EngineFacts]) -> Iterator[str]:
    """A line for each engine that was not timed or not run where it was built: a dash alone would hide it."""
    for engine in engines:
        made = engine.manifest
        if made.performance.get("measured") is False:
            yield f"**Not timed**: `{made.arch}`: {made.performance.get('why') or 'no reason given'}"
        if made.accuracy_of != OF_ENGINE:
            yield f"**Accuracy** of `{made.arch}` is that of the {made.accuracy_of}, not of the engine."


def _candidates(engines: Sequence[EngineFacts]) -> str:
    """Every precision that was built and measured, with what spoke against it."""
    rows = []
    for engine in engines:
        report, arch = engine.report, f"`{engine.manifest.arch}`"
        rejected = report.get("rejected") or {}
        shape = str(report.get("ranked_by", ""))
        for name, found in (report.get("candidates") or {}).items():
            timings = found.get("timings") or {}
            speed = timings.get(shape) or {}
            said = rejected.get(name) or ("chosen" if name == report.get("chosen") else DASH)
            figures = (
                number(speed.get("p50_ms")),
                number(speed.get("p99_ms")),
                _mib(found.get("engine_bytes")),
            )
            rows.append((arch, str(name), _accuracy(found.get("accuracy")), *figures, str(said)))
        absent = [name for name in rejected if name not in (report.get("candidates") or {})]
        rows += [(arch, str(name), DASH, DASH, DASH, DASH, str(rejected[name])) for name in absent]
    if not rows:
        return "The builder kept no comparison."
    return table(("target", "precision", "accuracy", "p50 ms", "p99 ms", "MiB on disk", "verdict"), rows)


def _accuracy(outputs: Any) -> str:
    """The least cosine of each output."""
    if not isinstance(outputs, Mapping):
        return DASH
    least = ((name, facts.get("cosine_min")) for name, facts in outputs.items() if isinstance(facts, Mapping))
    return ", ".join(f"{name}: cosine {number(value)}" for name, value in least) or DASH


def _mib(size_bytes: Any) -> str:
    return number(None if size_bytes is None else float(size_bytes) / 2**20)


def _numerics(release: Release, rows: Sequence[Mapping[str, Any]]) -> str:
    limits = release.spec.numerics
    worst = sorted(rows, key=lambda row: -_badness(row, limits.max_abs))[:WORST_ROWS]
    header = ("output", "shape", f"max abs (limit {limits.max_abs:g})", f"max rel ({limits.max_rel:g})")
    shown = [
        (str(row.get("output")), str(row.get("shape")), *(number(row.get(name)) for name in _MEASURES))
        for row in worst
    ]
    return table((*header, f"cosine ({limits.cosine:g})"), shown)


_MEASURES: Final = ("max_abs", "max_rel", "cosine")


def _badness(row: Mapping[str, Any], limit: float) -> float:
    value = row.get("max_abs")
    return math.inf if value is None else float(value) / limit


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return []
    out: list[tuple[str, Any]] = []
    for name, item in value.items():
        path = f"{prefix}{name}"
        if isinstance(item, Mapping):
            out += _flat(item, f"{path}.")
        elif not isinstance(item, list | tuple):
            out.append((path, item))
    return out

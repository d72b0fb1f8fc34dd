"""The results of `benchmarks.engines` as a page for people. Pure: the JSON object in, Markdown out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.engines.bars import MODELS
from benchmarks.engines.ratios import COSINE, MEMORY, P99, THROUGHPUT, at, engine_of, sides_of
from benchmarks.engines.sides import COMPILED, EAGER, GRAPHS, ONNXRUNTIME
from benchmarks.page import MARKS, table

NAMES: Final = {
    EAGER: "PyTorch eager",
    COMPILED: "torch.compile",
    GRAPHS: "torch.compile, reduce-overhead",
    ONNXRUNTIME: "ONNX Runtime, CPU, FP32",
}
TIMES: Final = ("shape", "side", "n", "p50 ms", "p90 ms", "p99 ms", "mean ms", "rows/s", "compile s")
RATIOS: Final = ("against", "P50, one row", "P99, one row", "rows/s, largest", "memory saved, largest")
MEMORIES: Final = (
    "side",
    "by the driver, MiB",
    "of it CUDA's context",
    "by process, MiB",
    "allocated by PyTorch, MiB",
)
BARS: Final = ("model", "what", "wanted", "got", "result", "missed by", "why")
INCLUDED: Final = (
    "Times are the host's, from numpy arrays to numpy arrays: copies through pinned memory in both directions are in "
    "them on every side. PyTorch runs the model of the "
    "checkpoint with scaled_dot_product_attention; torch.compile compiles each shape on its own, and its second mode "
    "finds in a cache what its first had compiled. Memory is what the driver counts on the card beyond what it counted "
    "before the process began, the largest bucket served again and again by a fresh process that is alone there."
)


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = ["# Engines beside PyTorch", _machine(result["hardware"], result["n"]), INCLUDED]
    for name in (*MODELS, *(other for other in result["figures"] if other not in MODELS)):
        if name in result["figures"]:
            parts += _model(name, **result["figures"][name])
    parts += [
        "## What was promised",
        table(("line", "target", "result"), map(_promise, enumerate(result["acceptance"]))),
    ]
    rows = [row for line in result["acceptance"][:2] for row in line["value"] or ()]
    parts += ["## Bar by bar", table(BARS, map(_bar, rows))]
    return "\n\n".join(parts) + "\n"


def _machine(hardware: Mapping[str, Any], n: Mapping[str, Any]) -> str:
    gpu = "no GPU"
    if hardware["gpu"]:
        versions = f"driver {hardware['driver']}, CUDA {hardware['cuda']}"
        gpu = f"{hardware['gpu']} ({hardware['gpu_memory_gib']} GiB, {versions})"
    return (
        "Made by `python -m benchmarks.engines --json`: each model exported, calibrated and built on the product's "
        f"own way, each side warmed {n['warm']} times and timed {n['runs']} times if fast enough. Machine: {gpu}, "
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB. TensorRT {hardware['tensorrt']}, "
        f"PyTorch {hardware['torch']}, ONNX Runtime {hardware['onnxruntime']}."
    )


def _model(name: str, measured: Mapping[str, Any], ratios: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {measured['title']}"
    yield _first_line(measured, ratios)
    yield table(TIMES, _times(measured))
    yield "How often the engine is better (over 1: it is), and the share of memory that it saves:"
    yield table(RATIOS, _ratios(ratios))
    yield table(MEMORIES, _memories(measured))
    yield _accuracy(measured, ratios)
    yield _builds(measured, ratios)
    if costs := ratios["cost_per_million_rows"]:
        each = ", ".join(f"{NAMES.get(side, side)} {_number(cost, 2)}" for side, cost in costs.items())
        yield f"A million rows at the largest bucket, at {measured['price_per_hour']:g} an hour: {each}."
    if failed := {step: one["error"] for step, one in measured["steps"].items() if "error" in one}:
        yield "Failed: " + "; ".join(f"{step}: {why}" for step, why in failed.items()) + "."


def _first_line(measured: Mapping[str, Any], ratios: Mapping[str, Any]) -> str:
    """What a reader takes away."""
    mine, eager = engine_of(measured), at(measured["steps"], "torch", EAGER)
    one = measured["latency"]
    judged = ratios["judged"]
    saved = judged[MEMORY]
    return (
        f"One row of {one.rpartition('=')[2]} tokens takes the {measured['precision'].upper()} engine "
        f"{_number(at(mine, 'timings', one, 'p99_ms'), 2)} ms at P99 and PyTorch eager "
        f"{_number(at(eager, one, 'p99_ms'), 2)} ms ({_number(judged[P99], 2)}x); at {measured['largest']} the engine "
        f"answers {_number(judged[THROUGHPUT], 2)}x as many rows a second with "
        f"{_number(None if saved is None else 100 * saved, 0)} % less device memory; its worst cosine to PyTorch's "
        f"FP32 is {_number(judged[COSINE], 6)}."
    )


def _times(measured: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    report = at(measured["steps"], "cold_build", "report") or {}
    for shape in (measured["latency"], measured["largest"]):
        for name, one in (report.get("candidates") or {}).items():
            chosen = ", chosen" if name == report["chosen"] else ""
            yield _time(shape, f"engine {name}{chosen}", at(one, "timings", shape))
        for side, timings in sides_of(measured).items():
            yield _time(shape, NAMES[side], timings.get(shape))


def _time(shape: str, name: str, timing: Mapping[str, Any] | None) -> Sequence[Any]:
    if not timing or "error" in timing:
        return (shape, f"{name}: {timing['error']}" if timing else name, *[None] * 7)
    figures = [_number(timing.get(key), 3) for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms")]
    rest = (_number(timing.get("rows_per_s"), 0), _number(timing.get("compile_seconds"), 1))
    return (shape, name, timing["n"], *figures, *rest)


def _ratios(ratios: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    for side, latency in ratios["latency"].items():
        saved = ratios["memory_saved"].get(side)
        yield (
            NAMES[side],
            _number(latency["p50_ms"], 2),
            _number(latency["p99_ms"], 2),
            _number(ratios["throughput"].get(side), 2),
            None if saved is None else f"{100 * saved:.0f} %",
        )


def _memories(measured: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    for name, one in (at(measured["steps"], "cold_build", "report", "candidates") or {}).items():
        yield (f"engine {name}", _mib(one.get("peak_memory_bytes")), None, None, None)
    peaks = measured["steps"].get("peak") or {}
    for side, found in peaks.items():
        if side == "error" or "error" in found:
            yield (f"{NAMES.get(side, side)}: {found if side == 'error' else found['error']}", *[None] * 4)
            continue
        keys = ("driver_bytes", "context_bytes", "process_bytes", "allocated_bytes")
        yield (NAMES[side], *(_mib(found.get(key)) for key in keys))


def _accuracy(measured: Mapping[str, Any], ratios: Mapping[str, Any]) -> str:
    cosine, int8 = ratios["cosine"], ratios["int8"]
    direct = cosine["chosen_to_pytorch"] or {}
    first = (
        f"Accuracy, the worst sample's cosine: {measured['precision'].upper()} engine to the FP32 ONNX "
        f"{_number(cosine['engine_to_onnx_min'], 6)}, the ONNX to PyTorch {_number(cosine['onnx_to_pytorch_min'], 8)}; "
        f"judged {_number(cosine['judged'], 6)}, by {cosine['judged_by']}."
    )
    chosen = (
        f"The chosen engine ({direct.get('candidate')}) to PyTorch: {_number(direct.get('cosine_min'), 6)} over "
        f"{direct.get('samples')} samples."
    )
    int8s = (
        f"{name} to the FP32 ONNX: {_number(one, 4)}." for name, one in cosine["int8_to_onnx_min"].items()
    )
    texts = [first, chosen, *int8s]
    if task := int8["task"]:
        texts.append(
            f"{task['metric']} of {int8['candidate']}: {_number(task['value'], 4)}, the reference "
            f"{_number(task['reference'], 4)}, a drop of {_number(task['drop'], 4)}."
        )
    elif not measured["trained"]:
        texts.append("Its weights are random: nothing but the cosine says anything of it.")
    return " ".join(texts)


def _builds(measured: Mapping[str, Any], ratios: Mapping[str, Any]) -> str:
    rebuild, prepared = ratios["rebuild"], measured["steps"].get("prepare") or {}
    share = rebuild["share_of_build_seconds"]
    includes = at(measured["steps"], "cold_build", "report", "includes") or {}
    held = ", ".join(name for name, there in includes.items() if there) or "nothing that it tells"
    return (
        f"In the engine's times: {held}. Export {_number(prepared.get('export_seconds'), 0)} s, calibration "
        f"{_number(prepared.get('calibration_seconds'), 0)} s. Building all candidates takes "
        f"{_number(rebuild['cold_build_seconds'], 1)} s cold and {_number(rebuild['warm_build_seconds'], 1)} s with a "
        f"warm timing cache ({_number(None if share is None else 100 * share, 0)} %); the whole calls, measuring too, "
        f"{_number(at(measured['steps'], 'cold_build', 'seconds'), 0)} s and "
        f"{_number(at(measured['steps'], 'warm_build', 'seconds'), 0)} s; called again with nothing changed "
        f"{_number(rebuild['unchanged_seconds'], 1)} s."
    )


def _promise(numbered: tuple[int, Mapping[str, Any]]) -> Sequence[Any]:
    """(id, target, result); what each bar of the first two says stands in a table of its own."""
    number, line = numbered
    if number > 1 or line["holds"] is True or not line["value"]:
        reason = f": {line['reason']}" if line.get("reason") else ""
        return line["id"], line["target"], f"{MARKS[line['holds']]}{reason}"
    counts = Counter(row["holds"] for row in line["value"])
    said = f"{counts[False]} of {counts.total()} bars missed, {counts[None]} not judged; see below"
    return line["id"], line["target"], f"**missed**: {said}" if line["holds"] is False else said


def _bar(row: Mapping[str, Any]) -> Sequence[Any]:
    got = None if row["got"] is None else f"{row['got']:.5g}"
    mark = "not judged" if row["holds"] is None else MARKS[row["holds"]]
    return row["model"], row["what"], row["wanted"], got, mark, row["missed_by"], row["why"]


def _mib(value: Any) -> str | None:
    return None if value is None else f"{value / 2**20:.0f}"


def _number(value: Any, digits: int) -> str:
    """Fixed digits; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"

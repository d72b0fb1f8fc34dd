"""The results of `benchmarks.calibration` as a page for people. Pure: the JSON object in, Markdown out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.calibration.job import MODELOPT, ORT_ENTROPY, ORT_STRIDED, OURS
from benchmarks.calibration.texts import LONGEST
from benchmarks.page import MARKS, table

ANSWERS: Final = (
    *("INT8 by", "splits", "recall@1", "points below FP32 (standard error)", "same nearest as FP32"),
    *("least cosine", "mean cosine"),
)
COSTS: Final = ("calibration by", "splits", "seconds", "CPU seconds", "peak memory, MiB", "version")
DIFFERENCES: Final = ("against", "splits", "points that ours loses more (standard error)")
SERVED: Final = (
    "engine",
    "requests",
    "p50, ms",
    "p99, ms",
    "requests/s",
    "recall@1",
    "same nearest as FP32",
    "mean cosine",
)
RULES: Final = ("what", "tests", "result")
CHECKS: Final = ("what", "wanted", "got", "result", "why")
FAIR: Final = (
    f"How the tools were used. Every tool gets the same texts, of at most {LONGEST} tokens, one at a time and "
    f"unpadded. Only `{ORT_ENTROPY}` pads them to the longest: it puts the activations of all samples into one array, "
    "so it takes samples of one shape only, and it keeps them all until the last. ONNX Runtime's `quantize_static` is "
    "left at its defaults: quantize/dequantize pairs around every operator that it can, int8, one scale a weight, 128 "
    f"bins. `{ORT_STRIDED}` is the same with `CalibStridedMinMax=1`, which is documented for minmax only; it needs no "
    "padding, keeps one sample, and takes less memory than ours. ModelOpt is left at its defaults on a CPU, but that "
    "what it does not quantize stays FP32 instead of FP16. Ours quantizes MatMul, Gemm and Conv as a release for a CPU "
    "does: uint8 activations with a zero point, one scale an output channel of a weight. So the tools differ in what "
    "they quantize and how, not in their search for ranges alone."
)
READING: Final = (
    "The first row of ours is the mixed candidate where calibration made one, else the best of the others by its own "
    "judging on 32 of the texts that calibrate; it never saw a held-out pair. It makes a mixed one where the best "
    "misses half way from the spec's bar to 1. Points below 0 are better than FP32. "
    "Seconds are of the call alone, imports left out, on cores that were "
    "shared; CPU seconds leave the waiting out. Ours covers all its methods, the mixed candidate and its judging in "
    "one call; the others one method. Peak memory is VmHWM of a fresh process that does nothing else. The splits draw "
    "their pairs from the same 1 800 or so, so they overlap, and the standard error over them is on the small side."
)


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    figures = result["figures"]
    line, *others = result["acceptance"]
    parts = [
        "# INT8 calibration beside ONNX Runtime and ModelOpt",
        _machine(result["hardware"], result["n"], figures["tools"]),
        _first_line(figures),
        "## What the models answer",
        f"FP32 itself: recall@1 {_number(figures['fp32_recall'], 4)}.",
        table(ANSWERS, map(_answers, figures["candidates"])),
        _like_for_like(figures),
        "Split by split, what ours hands on against what the other does:",
        table(DIFFERENCES, (_difference(tool, one) for tool, one in figures["differences"].items())),
        "## What it costs to calibrate",
        table(COSTS, (_costs(tool, one) for tool, one in figures["tools"].items())),
        *_errors(figures["tools"]),
        FAIR,
        READING,
        *_served(figures.get("server")),
        *_invariance(figures.get("invariance")),
        "## What was promised",
        table(("line", "target", "result"), map(_promise, [line, *others])),
        table(CHECKS, map(_check, line["value"])),
    ]
    return "\n\n".join(parts) + "\n"


def _machine(hardware: Mapping[str, Any], n: Mapping[str, Any], tools: Mapping[str, Any]) -> str:
    modelopt = tools.get(MODELOPT, {}).get("version")
    versions = f"ONNX Runtime {hardware['onnxruntime']}" + (f", ModelOpt {modelopt}" if modelopt else "")
    return (
        f"Made by `python -m benchmarks.calibration --json`: MiniLM with its trained weights on ONNX Runtime's CPU "
        f"provider. {n['splits']} seeded splits, each of {n['texts']} texts that calibrate and {n['held_out']} pairs "
        "that are held out: the first sentence of a docstring of the standard library has to find the rest of that "
        f"docstring among {n['held_out']}. Machine: {hardware['cpu']}, {hardware['cores']} cores, "
        f"{hardware['memory_gib']} GiB. {versions}."
    )


def _first_line(figures: Mapping[str, Any]) -> str:
    """What a reader takes away."""
    lost = {one["tool"]: one["lost"] for one in figures["candidates"] if one["candidate"] is None}
    peak = {tool: one["peak_bytes"] for tool, one in figures["tools"].items()}
    return (
        f"Ours loses {_points(lost.get(OURS))} points of recall@1 to FP32, ONNX Runtime's entropy "
        f"{_points(lost.get(ORT_ENTROPY))}, ModelOpt's {_points(lost.get(MODELOPT))}; calibrating takes ours "
        f"{_mib(peak.get(OURS))} MiB and ONNX Runtime's entropy {_mib(peak.get(ORT_ENTROPY))} MiB."
    )


def _like_for_like(figures: Mapping[str, Any]) -> str:
    """What the promise does not ask, and a reader would: the one method that all three have."""
    lost = {(one["tool"], one["candidate"]): one["lost"] for one in figures["candidates"]}
    names = {MODELOPT: "ModelOpt's", ORT_STRIDED: "ONNX Runtime's without padding"}
    others = ", ".join(f"{name} {_points(lost.get((tool, None)))}" for tool, name in names.items())
    return (
        f"By entropy alone, ours loses {_points(lost.get((OURS, 'entropy')))} points, {others}: what ours hands on is "
        "found by other methods, and by leaving operators in FP32. No spec has entropy by default."
    )


def _served(server: Mapping[str, Any] | None) -> Iterator[str]:
    """FP32 and INT8 behind the model server; nothing where they were not served."""
    if server is None:
        return
    yield "## What is gained where it is served"
    if "error" in server:
        yield f"Not measured: {server['error']}."
        return
    vnni = f"has VNNI (`{'`, `'.join(server['vnni_flags'])}`)" if server["vnni"] else "has no VNNI"
    yield (
        f"INT8 answers {_ratio(server['speed_up'])} times as many requests a second as FP32; FP32's median answer "
        f"takes {_ratio(server['latency'])} times as long as INT8's. The CPU {vnni}. Both engines are the builder's "
        f"own for this CPU, from the demo's spec (INT8: `{server['chosen']['int8']}`), each behind the product's model "
        f"server in a process with one thread. {server['connections']} connections, each with one request out at a "
        f"time, send the texts of the held-out pairs in {server['pairs']} pairs of blocks, the same texts to either "
        "server, who comes first changing from pair to pair. Client and servers share the cores. recall@1 is of the "
        "answers that were timed."
    )
    yield table(SERVED, (_engine(name, one) for name, one in server["engines"].items()))


def _engine(name: str, one: Mapping[str, Any]) -> Sequence[Any]:
    accuracy = one["accuracy"]
    agreement = accuracy.get("agreement")
    return (
        name.upper(),
        one["n"],
        *(_number(one[key], 2) for key in ("p50_ms", "p99_ms")),
        _number(one["requests_per_s"], 1),
        _number(accuracy.get("recall"), 4),
        None if agreement is None else f"{100 * agreement:.1f} %",
        _number(accuracy.get("cosine_mean"), 4),
    )


def _ratio(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    return f"{one['value']:.2f} ({100 * one['confidence']:.0f} %: {one['low']:.2f} to {one['high']:.2f})"


def _invariance(found: Mapping[str, Any] | None) -> Iterator[str]:
    """How MiniLM's samples were collected in several ways, and the tests beside it; nothing where it was not run."""
    if found is None:
        return
    same, threads = sum(row["same"] for row in found["ways"]), found["threads"]
    sizes = ", ".join(map(str, sorted({row["chunk"] for row in found["ways"]})))
    yield "## What the scales depend on"
    yield (
        f"{found['samples']} texts were collected in {len(found['ways'])} ways: chunks of {sizes}, in the file's order "
        f"and shuffled, by one thread and by two. {same} of them gave the same histograms of all {found['tensors']} "
        f"activations to the bit, and the same ranges by {', '.join(found['methods'])}. Two threads collect "
        f"{_ratio(threads['speed_up'])} times as fast as one ({threads['one_s']:.1f} s, {threads['two_s']:.1f} s)."
    )
    yield table(RULES, (_rule(what, one) for what, one in found["tests"].items()))


def _rule(what: str, one: Mapping[str, Any]) -> Sequence[Any]:
    return (what, ", ".join(f"`{test}`" for test in one["tests"]), MARKS[one["passed"]])


def _answers(one: Mapping[str, Any]) -> Sequence[Any]:
    name = f"{one['tool']}, {one['candidate']}" if one["candidate"] else one["tool"]
    return (
        f"**{OURS}**, as it is handed on" if name == OURS else name,
        one["splits"],
        _number(one["recall"], 4),
        _with_error(one["lost"], one["lost_standard_error"]),
        None if one["agreement"] is None else f"{100 * one['agreement']:.1f} %",
        _number(one["cosine_min"], 4),
        _number(one["cosine_mean"], 4),
    )


def _difference(tool: str, one: Mapping[str, Any]) -> Sequence[Any]:
    return (tool, one["splits"], _with_error(one["mean"], one["standard_error"]))


def _costs(tool: str, one: Mapping[str, Any]) -> Sequence[Any]:
    seconds = [_number(one[key], 0) for key in ("seconds", "cpu_seconds")]
    return (tool, one["splits"], *seconds, _mib(one["peak_bytes"]), one["version"])


def _errors(tools: Mapping[str, Any]) -> Iterator[str]:
    if failed := {tool: one["error"] for tool, one in tools.items() if one["error"]}:
        yield "Not measured: " + "; ".join(f"{tool}: {why}" for tool, why in failed.items()) + "."


def _promise(line: Mapping[str, Any]) -> Sequence[Any]:
    result = MARKS[line["holds"]]
    return (line["id"], line["target"], f"{result}: {line['reason']}" if line.get("reason") else result)


def _check(row: Mapping[str, Any]) -> Sequence[Any]:
    got = row["got"] if row["got"] is None or isinstance(row["got"], str) else f"{row['got']:.4g}"
    return (row["what"], row["wanted"], got, MARKS[row["holds"]], row["why"])


def _with_error(value: float | None, error: float | None) -> str | None:
    if value is None:
        return None
    return f"{_points(value)} ({'-' if error is None else _points(error)})"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:.0f}"

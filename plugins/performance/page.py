"""`report.html`: one page that needs nothing else, made from `engines.json`. Pure.

Invariants: whatever a report says is escaped; a figure that is missing is a dash, and why stands on the page; colour
never tells anything alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from plugins.model_card import DASH, number
from plugins.performance import plots
from plugins.performance.document import mapping, ranked
from plugins.performance.style import CSS
from plugins.performance.words import (
    ALONE,
    BAD,
    GOOD,
    PLAIN,
    UNKNOWN,
    axes,
    device,
    figure,
    includes,
    mib,
    percent,
    shapes,
    short,
    times,
    tone,
    verdict,
)
from sluice.cost import known, ratio

WORDS: Final = {GOOD: "faster", BAD: "slower", PLAIN: "as fast", ALONE: "not compared", UNKNOWN: "not timed"}
SLOWEST: Final = 10
GLANCE: Final = (
    "target",
    "precision",
    "p50",
    "p99",
    "rows per second",
    "peak memory",
    "GPU busy",
    "per million",
)


def page(whole: Mapping[str, Any]) -> str:
    """The page of one `engines.json`."""
    archs = mapping(whole.get("archs"))
    title = f"{whole['service']}: performance of release {str(whole['digest'])[:12]}"
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_intro(whole)}</p></header>",
        "<main>",
        f"<ul class=verdicts>{''.join(_verdict(arch, one) for arch, one in archs.items())}</ul>",
        _glance(whole),
        *(_section(arch, one) for arch, one in archs.items()),
        "</main>",
    ]
    head = (
        f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    )
    top = f"<!doctype html>\n<html lang=en><head>{head}<style>{CSS}</style></head>"
    return f"{top}<body>\n{''.join(body)}\n</body></html>\n"


def _intro(whole: Mapping[str, Any]) -> str:
    champion = mapping(whole.get("champion"))
    said = [f"Checkpoint {whole.get('checkpoint') or DASH}."]
    if champion.get("version") is None:
        said.append("There is no champion to compare with.")
    elif champion.get("why_not_compared"):
        said.append(f"Not compared: {champion['why_not_compared']}.")
    else:
        said.append(f"Compared with version {champion['version']}, the champion, at today's prices.")
    said += [f"{arch} (optional) was not built." for arch in whole.get("missing") or ()]
    said.append(_fleet(mapping(whole.get("fleet"))))
    return escape(" ".join(filter(None, said)))


def _fleet(fleet: Mapping[str, Any]) -> str:
    if not known(fleet.get("cost_per_million")):
        return "What the fleet costs is unknown, because the cost of a target is."
    before = fleet.get("champion_cost_per_million")
    beside = f", the champion's {figure(before)} ({times(fleet.get('ratio'))})" if known(before) else ""
    return f"A million rows cost {figure(fleet['cost_per_million'])} over the whole fleet{beside}."


def _verdict(arch: str, one: Mapping[str, Any]) -> str:
    mood, line = verdict(arch, one)
    return f"<li class={mood}><b>{escape(arch)}</b> <em>{WORDS[mood]}</em> <span>{escape(line)}</span></li>"


def _glance(whole: Mapping[str, Any]) -> str:
    """Every target's figures, each with its ratio to the champion's below."""
    archs = mapping(whole.get("archs"))
    rows = [_glance_row(arch, one) for arch, one in archs.items()]
    notes = dict.fromkeys(note for arch, one in archs.items() for note in _dashes(arch, one))
    notes_html = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        "<section><h2>At a glance</h2>"
        "<p class=muted>At the shape that candidates are ranked by. Below each figure: its ratio to the champion's.</p>"
        f"{_table(GLANCE, rows)}{f'<ul class=notes>{notes_html}</ul>' if notes else ''}</section>"
    )


def _glance_row(arch: str, one: Mapping[str, Any]) -> list[str]:
    now, theirs = ranked(one), mapping(one.get("champion"))
    before = ranked(theirs)
    return [
        f"<b>{escape(arch)}</b><small>{escape(short(str(one.get('ranked_by') or '')) or DASH)}</small>",
        f"{escape(str(one['precision']))}<small>{escape(_was(theirs))}</small>",
        _cell(now.get("p50_ms"), before.get("p50_ms"), "ms"),
        _cell(now.get("p99_ms"), before.get("p99_ms"), "ms"),
        _cell(now.get("rows_per_s"), before.get("rows_per_s"), less_is_better=False),
        _cell(one.get("peak_memory_bytes"), theirs.get("peak_memory_bytes"), show=mib),
        f"{percent(now.get('gpu_utilisation'))}<small>{_was_percent(before.get('gpu_utilisation'))}</small>",
        _cell(one.get("cost_per_million"), theirs.get("cost_per_million")),
    ]


def _was(theirs: Mapping[str, Any]) -> str:
    return f"was {theirs['precision']}" if theirs.get("precision") else ""


def _was_percent(value: Any) -> str:
    return "" if percent(value) == DASH else f"was {percent(value)}"


def _cell(now: Any, before: Any, unit: str = "", *, less_is_better: bool = True, show: Any = None) -> str:
    change = ratio(now, before)
    shown = show(now) if show else figure(now, unit)
    below = "" if change is None else times(change)
    return f"{shown}<small class={tone(change, less_is_better=less_is_better)}>{below}</small>"


def _dashes(arch: str, one: Mapping[str, Any]) -> Iterator[str]:
    """Why a figure of this target is a dash."""
    now = ranked(one)
    if not now:
        why = one.get("why_not_measured") or "the report has none"
        yield f"{arch}: no timings, no memory and no use of the GPU: {why}."
    elif known(one.get("peak_memory_bytes")) is None:
        yield f"{arch}: no peak memory: the report has none."
    if now and now.get("gpu_utilisation") is None:
        gpu = str(arch).startswith("sm_")
        yield f"{arch}: no use of the GPU: {'the report has none' if gpu else 'this target has no GPU'}."
    if one.get("why_no_cost"):
        yield f"{arch}: cost unknown: {one['why_no_cost']}."
    if one.get("why_no_champion"):
        yield f"{arch}: not compared: {one['why_no_champion']}."


def _section(arch: str, one: Mapping[str, Any]) -> str:
    mood, line = verdict(arch, one)
    where = device(one) if one.get("timings") else f"built on {device(one)}, which does not run it"
    under = f"{one['backend']} · {where} · {percent(one.get('share'))} of the users"
    parts = [
        f"<h2>{escape(arch)}</h2><p class=muted>{escape(under)}</p>",
        f"<p class='line {mood}'>{escape(line)}</p>",
        f"<p><b>{escape(str(one.get('chosen') or one['precision']))}</b> was chosen. {escape(_why(one))}</p>",
        *_speed(arch, one),
        f"<div class=pair>{''.join(_pair(arch, one))}</div>",
        *_one_profile(one),
        *_figures(one),
    ]
    return f"<section id='{escape(arch)}'>{''.join(parts)}</section>"


def _why(one: Mapping[str, Any]) -> str:
    """The builder's reason, as a sentence."""
    reason = str(one.get("reason") or "no reason was given").removeprefix(f"{one.get('chosen')}: ")
    return f"{reason[:1].upper()}{reason[1:]}."


def _speed(arch: str, one: Mapping[str, Any]) -> Iterator[str]:
    if not one.get("timings"):
        why = one.get("why_not_measured") or "the report has no timings"
        yield f"<p class=absent>{DASH} Latency and throughput: not timed: {escape(str(why))}.</p>"
        return
    label = f"Latency and throughput of {arch} by shape"
    shown = _plot(plots.speed(f"{arch}-speed", one), label, includes(one))
    yield f"<div class=wide>{shown}</div>"
    yield from _another_machine(one)


def _another_machine(one: Mapping[str, Any]) -> Iterator[str]:
    """Two machines are no comparison of two engines."""
    theirs = mapping(one.get("champion"))
    if theirs.get("timings") and device({**one, **theirs}) != device(one):
        yield (
            "<p class=absent>The champion was timed on another machine or driver: "
            f"{escape(device({**one, **theirs}))}. Part of the difference may be the machine's.</p>"
        )
    if theirs.get("timings") and theirs.get("includes") != one.get("includes"):
        yield "<p class=absent>The champion's timings include other things than these: compare with care.</p>"


def _pair(arch: str, one: Mapping[str, Any]) -> Iterator[str]:
    samples, of = one.get("accuracy_samples"), str(one.get("accuracy_of"))
    told = f"On {number(samples)} real samples, measured on {'the engine itself' if of == 'engine' else 'the ' + of}."
    if one.get("candidates"):
        yield _plot(plots.accuracy(f"{arch}-accuracy", one), f"Accuracy of {arch}'s candidates", told)
    slowest = list(one.get("layers") or ())[:SLOWEST]
    if slowest:
        note = f"At {short(str(one.get('ranked_by')))}; names are cut at the front."
        yield _plot(plots.layers(f"{arch}-layers", slowest), f"Slowest layers of {arch}", note)
    else:
        why = "not timed" if not one.get("timings") else "the report has none"
        yield f"<p class=absent>{DASH} Layers: {why}.</p>"


def _one_profile(one: Mapping[str, Any]) -> Iterator[str]:
    """What a single optimisation profile for all shapes would have done to each."""
    found = mapping(one.get("one_profile"))
    if not found:
        return
    rows = [_profile(shape, mapping(found[shape])) for shape in shapes(found)]
    header = (axes(found) or "shape", "p50 as built", "p50 with one profile", "ratio")
    yield (
        "<h3>One profile instead of one per batch bucket</h3>"
        "<p class=muted>Above 1, a single profile for all shapes would have cost latency.</p>"
        f"<div class=narrow>{_table(header, rows)}</div>"
    )


def _profile(shape: str, told: Mapping[str, Any]) -> list[str]:
    change = known(told.get("ratio"))
    return [
        escape(short(shape)),
        figure(told.get("p50_ms"), "ms"),
        figure(told.get("one_profile_p50_ms"), "ms"),
        f"<span class={_costs(change)}>{times(change)}</span>",
    ]


def _costs(value: Any) -> str:
    found = known(value)
    return tone(None if found is None else 1 / found)


TIMINGS: Final = (
    ("p50", "p50_ms"),
    ("p90", "p90_ms"),
    ("p95", "p95_ms"),
    ("p99", "p99_ms"),
    ("mean", "mean_ms"),
    ("GPU p50", "device_p50_ms"),
    ("GPU p99", "device_p99_ms"),
)


def _figures(one: Mapping[str, Any]) -> Iterator[str]:
    """Every number behind the plots, folded."""
    timings = mapping(one.get("timings"))
    if timings:
        header = (
            axes(timings) or "shape",
            *(f"{name}, ms" for name, _ in TIMINGS),
            "rows/s",
            "GPU busy",
            "n",
        )
        rows = [_timing(shape, mapping(timings[shape])) for shape in shapes(timings)]
        yield f"<details><summary>All timings</summary>{_table(header, rows)}</details>"
    rows = [_candidate(name, one, mapping(found)) for name, found in mapping(one.get("candidates")).items()]
    rows += [
        [escape(name), *[DASH] * 7, _wrapped(why)]
        for name, why in mapping(one.get("rejected")).items()
        if name not in mapping(one.get("candidates"))
    ]
    header = (
        "candidate",
        "cosine",
        "bar",
        "max abs",
        "task drop",
        "p50, ms",
        "on disk",
        "built in",
        "verdict",
    )
    yield f"<details><summary>All candidates</summary>{_table(header, rows)}</details>"


def _timing(shape: str, found: Mapping[str, Any]) -> list[str]:
    return [
        escape(short(shape)),
        *(figure(found.get(name)) for _, name in TIMINGS),
        figure(found.get("rows_per_s")),
        percent(found.get("gpu_utilisation")),
        number(found.get("n")),
    ]


def _candidate(name: str, one: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    said = mapping(one.get("rejected")).get(name) or ("chosen" if name == one.get("chosen") else DASH)
    outputs = [mapping(told) for told in mapping(found.get("accuracy")).values()]
    cosines = [told["cosine_min"] for told in outputs if told.get("cosine_min") is not None]
    far = [told["max_abs"] for told in outputs if told.get("max_abs") is not None]
    drop = mapping(found.get("task")).get("drop")
    return [
        escape(name),
        f"{min(cosines):.5f}" if cosines else DASH,
        number(found.get("bar")),
        figure(max(far)) if far else DASH,
        number(drop),
        figure(mapping(found.get("timing")).get("p50_ms")),
        mib(found.get("engine_bytes")),
        figure(found.get("build_seconds"), "s"),
        _wrapped(said),
    ]


def _wrapped(text: Any) -> str:
    return f"<span class=wrap>{escape(str(text))}</span>"


def _plot(svg: str, label: str, caption: str) -> str:
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure role=img aria-label='{escape(label)}'>{svg}{told}</figure>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """rows: of HTML, escaped already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"

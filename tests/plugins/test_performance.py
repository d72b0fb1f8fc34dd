"""The performance page, parsed as a browser would: every figure beside the champion's, every dash with its reason."""

import copy
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from plugins.performance.document import Champion, costings, document, metrics
from plugins.performance.page import page
from tests.plugins.engine_reports import (
    A100,
    CPU,
    H100,
    PRICES,
    RANKED,
    RTX,
    WHY_NOT,
    facts,
    fleet,
    release,
    single,
)

X = "\N{MULTIPLICATION SIGN}"
VOID = {"meta", "br", "img", "link"}


class Parsed(HTMLParser):
    """text: without that of tags. tables: rows of cells. addresses: of everything that a page could load."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tables, self.addresses, self.words, self.labels = [], [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        self.labels += [value for name, value in attrs if name == "aria-label"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open) and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] = " ".join((self.tables[-1][-1][-1], data)).strip()


def before(*engines):
    """Version 7's figures, which an earlier release left."""
    whole = document(release(), engines, [], Champion(), "2026-11-01")
    return Champion.read("7", json.dumps(whole))


OLD = before(facts(CPU, slower=1.3), facts(A100, slower=0.9), facts(H100, slower=1.02))


def made(engines=None, champion=OLD, missing=(), **changes):
    return document(release(**changes), engines or fleet(), list(missing), champion, "2026-11-20")


@pytest.fixture(scope="module")
def html():
    return page(made())


@pytest.fixture(scope="module")
def shown(html):
    return Parsed(html)


def glance(shown):
    """The first table, by target."""
    header, *rows = shown.tables[0]
    return {row[0].split()[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_page_needs_nothing_else_and_every_tag_is_closed(html, shown):
    assert shown.open == []
    assert [address for address in shown.addresses if not address.startswith("#")] == []
    assert re.findall(r"url\((?!#)|@import|<script|<link", html) == []
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert sorted(set(ids)) == sorted(ids), "two plots share an id"
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


def test_the_same_figures_give_the_same_bytes(html):
    """A version that is registered again must not get another page."""
    few = made([facts(A100, said=single())])
    assert page(few) == page(json.loads(json.dumps(few)))


def test_one_line_for_each_target_says_how_it_stands_to_the_champion(shown):
    cost = "a million rows cost"
    for line in (
        f"cpu-avx512vnni faster int8 answers in 26.4 ms (p50), 23 % less than version 7; {cost} 0.162, 23 % less.",
        f"sm_80 slower fp16 answers in 1.00 ms (p50), 11 % more than version 7; {cost} 0.123, 11 % more.",
        f"sm_90 as fast fp16 answers in 0.600 ms (p50), as fast as version 7 (0.98{X}); {cost} 0.150, as before.",
        f"sm_120 not timed fp16 is chosen, not timed: {WHY_NOT}.",
    ):
        assert line in re.sub(r"\s+", " ", shown.text)


def test_every_figure_stands_beside_its_ratio_to_the_champion_s(shown):
    row = glance(shown)[A100]
    assert row["p50"] == f"1.00 ms 1.11{X}"
    assert row["rows per second"] == f"7,692 0.90{X}"
    assert row["precision"] == "fp16 was fp16"
    assert row["GPU busy"] == "79 % was 79 %"
    assert row["per million"] == f"0.123 1.11{X}"


def test_what_was_not_measured_is_a_dash_with_its_reason_and_never_a_zero(shown):
    row = glance(shown)[RTX]
    assert {
        row[name] for name in ("p50", "p99", "rows per second", "peak memory", "GPU busy", "per million")
    } == {"—"}
    assert f"sm_120: cost unknown: not timed: {WHY_NOT}." in shown.text
    assert "sm_120: not compared: version 7, the champion, has no engine for sm_120." in shown.text
    assert "What the fleet costs is unknown, because the cost of a target is." in shown.text


def test_the_tables_hold_every_shape_and_every_candidate_with_what_spoke_against_it(shown):
    timings = [table for table in shown.tables if table[0][1].startswith("p50, ms")]
    assert [len(table) - 1 for table in timings] == [9, 9, 9]
    sizes = [row[0] for row in timings[0][1:]]
    assert sizes[:4] == [f"{b} {X} {s}" for b, s in ((1, 32), (1, 128), (1, 384), (8, 32))]
    ranked = next(row for row in timings[1] if row[0] == f"8 {X} 128")
    assert ranked[1:] == ["1.00", "1.12", "1.20", "1.45", "1.04", "0.800", "0.864", "7,692", "79 %", "200"]
    candidates = [table for table in shown.tables if table[0][0] == "candidate"]
    assert len(candidates) == 4
    assert candidates[1][-1][-1] == "cosine 0.9624 < 0.98"
    assert [row[-1] for row in candidates[1] if row[0] == "fp16"] == ["chosen"]


def test_what_one_profile_would_have_cost_and_what_timings_include_are_said(shown):
    (profile,) = (table for table in shown.tables if "p50 with one profile" in table[0])
    assert profile[1] == [
        f"1 {X} 32",
        "0.164 ms",
        "0.221 ms",
        f"1.35{X}",
    ]
    assert "Each run replays one CUDA graph" in shown.text  # sm_90
    assert "Each run launches its kernels one by one." in shown.text  # sm_80
    assert "A CPU target has no transfers" in shown.text


def test_plots_are_text_that_can_be_read_aloud(html, shown):
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]  # noqa: S314
    words = [
        " ".join(text.text or "" for text in plot.iter("{http://www.w3.org/2000/svg}text")) for plot in plots
    ]
    assert len(plots) == len(shown.labels) == 3 + 4 + 2  # speed, accuracy, layers
    assert "Latency and throughput of sm_80 by shape" in shown.labels
    assert any("7,692" in text and "champion, p50" in text and "GPU alone, p50" in text for text in words)
    assert any("cosine 0.99987" in text for text in words)
    assert any("/pooling/ReduceMean" in text and "0.0238 ms" in text for text in words)


# --- the document ---------------------------------------------------------------------------------


def test_a_report_s_words_are_text_and_never_markup():
    said = {"reason": "<script>alert(1)</script>", "layers": [{"name": "</svg><b>", "ms": 1.0, "share": 0.5}]}
    shown = page(made([facts(A100, said=said)]))
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "</svg><b>" not in shown


def test_reports_of_the_first_schema_show_dashes_where_they_have_no_figure():
    """Engines that were built before are served on: their report has no device time, bars or layers."""
    old = copy.deepcopy(facts(A100).report)
    for name in ("bars", "includes", "one_profile", "layers", "timing_cache"):
        del old[name]
    kept = ("n", "mean_ms", "p50_ms", "p99_ms", "rows_per_s")
    for found in old["candidates"].values():
        del found["build_seconds"], found["task"]
        found["timings"] = {
            shape: {name: told[name] for name in kept} for shape, told in found["timings"].items()
        }
    engine = facts(A100)
    shown = Parsed(
        page(made([type(engine)(manifest=engine.manifest, report={**old, "schema": 1}, reason="r")]))
    )
    assert "The report does not say what its timings include." in shown.text
    (timings,) = (table for table in shown.tables if table[0][1].startswith("p50, ms"))
    assert timings[5][1:] == ["1.00", "—", "—", "1.45", "1.04", "—", "—", "7,692", "—", "200"]
    assert "— Layers: the report has none." in shown.text


@pytest.mark.parametrize(
    ("champion", "words", "alone"),
    [
        pytest.param(Champion(), "There is no champion to compare with.", True, id="none"),
        pytest.param(
            Champion.read("3", None),
            "version 3, the champion, was registered without figures",
            False,
            id="old",
        ),
        pytest.param(
            Champion.read("3", "{"),
            "the figures of version 3, the champion, are not readable",
            False,
            id="broken",
        ),
        pytest.param(Champion.read("3", "{}"), "their schema is not 1", False, id="another-schema"),
        *(
            pytest.param(
                Champion.read("3", f'{{"schema": 1, "archs": {archs}}}'),
                "archs does not hold an engine of each architecture",
                False,
                id=f"archs-{archs}",
            )
            for archs in ("null", "{}", '{"sm_80": null}')
        ),
        pytest.param(
            before(facts(H100)), "version 7, the champion, has no engine for sm_80", True, id="other-archs"
        ),
    ],
)
def test_a_champion_without_figures_is_named_and_only_a_true_absence_is_nothing_to_compare_with(
    champion, words, alone
):
    whole = made([facts(A100, said=single())], champion)
    shown = Parsed(page(whole)).text
    assert words in shown
    assert re.search(r"sm_80 not compared \w+ answers in 1.00 ms \(p50\); not compared: ", shown)
    (costing,) = costings(whole, champion)
    assert (costing.alone, costing.champion) == (alone, None)


def test_the_champion_s_cost_is_taken_at_today_s_price_and_at_the_same_shape():
    (costing,) = costings(made([facts(A100)]), OLD)
    assert costing.ratio == pytest.approx(1 / 0.9)
    elsewhere = copy.deepcopy(OLD.document)
    del elsewhere["archs"][A100]["timings"][RANKED]
    champion = Champion.read("7", json.dumps(elsewhere))
    whole = made([facts(A100, said=single())], champion)
    (costing,) = costings(whole, champion)
    assert f"(p50); not compared: the champion was not timed at {RANKED}" in Parsed(page(whole)).text
    assert costing.champion is None
    assert costing.why_no_champion == f"version 7, the champion, was not timed at {RANKED}"
    assert not costing.alone


def test_the_fleet_s_cost_weighs_by_share_and_the_first_target_serves_for_one_that_is_missing():
    three = [facts(CPU), facts(A100), facts(H100)]
    whole = made(three, missing=[RTX])
    cost = {arch: whole["archs"][arch]["cost_per_million"] for arch in (CPU, A100, H100)}
    assert whole["fleet"]["cost_per_million"] == pytest.approx(
        0.2 * cost[CPU] + 0.4 * cost[A100] + 0.4 * cost[H100]
    )
    assert made(fleet())["fleet"]["cost_per_million"] is None
    assert cost[A100] == pytest.approx(PRICES[A100] / 3600 / (8000 / 1.04) * 1e6)


def test_figures_for_charts_leave_out_what_was_not_measured():
    found = metrics(made())
    assert found[f"p50_ms.{A100}"] == 1.0
    assert found[f"peak_memory_mib.{CPU}"] == pytest.approx(96e6 / 2**20)
    assert not any(name.endswith((f".{RTX}", ".fleet")) for name in found)

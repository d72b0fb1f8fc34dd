"""What was promised, word for word."""

from typing import Final

TARGETS: Final = {
    "verdict.1": "Healthy: turned back <= 1 %, upper bound, in every cell; all cells pooled <= 0.5 %.",
    "verdict.2": (
        "rho >= 2 on failures above the objective, and the four latency shapes: promoted <= 1 %, upper bound, in every "
        "cell; holding is allowed and counted."
    ),
    "verdict.3": (
        "Median detection at the centre cell, scrape delay included: <= 60 s for rho = 10, <= 6 min for 4, <= 12 min "
        "for 2; candidate requests used <= 2.0x the SPRT floor for 10 and 4."
    ),
    "verdict.4": (
        "Fast lane, through the real gateway in each stage: candidate refusing connections, answering only 500, "
        "hanging, or killed: median from the fault to weight 0 <= 15 s or 5 candidate users, whichever is later; "
        "1 000 healthy seeded runs with a shared outage of 60 s: 0 fast retreats."
    ),
    "verdict.5": (
        "Exposure at 200 rps, 20 000 users, base >= 0.5 %: mean share of a 4 h window's requests on the bad version "
        "<= 0.1 % for rho = 10, <= 0.2 % for 4, <= 0.6 % for 2; other cells listed beside their information bound."
    ),
    "verdict.6": (
        "Healthy: promoted within 4 h in >= 95 % of runs, median <= 20 min, in every cell with >= 20 000 users and "
        ">= 200 rps; with 2 000 users >= 70 %; the rest hold with the planner's reason given before the start."
    ),
    "verdict.7": (
        "Bad on one architecture of four (rho = 10 there): turned back before 50 % in >= 99 %; bad only on long inputs "
        "(a tenth of requests): before 100 % in >= 99 %."
    ),
    "verdict.8": (
        "Late fault, 60 min into 50 %: found within 3 min for rho = 4, 10 min for 2 (centre cell, median)."
    ),
    "verdict.9": (
        "The no-data matrix (every hold reason x 4 stages, driven through the real Prometheus, Envoy and controller): "
        "100 % hold with the right reason, 0 promotes, 0 retreats, resumed within one interval after repair."
    ),
    "verdict.10": (
        "Shadow: swapped outputs, a wrong tokenizer, an INT8 that saturates and one that gives NaN on long inputs are "
        "each caught with 0 users exposed in >= 99 % of seeded runs; the same weights twice: <= 1 %."
    ),
    "verdict.11": (
        "The planner's forecast within 25 % of the simulated median in every cell with a finite one."
    ),
    "verdict.12": (
        "Broken twins (peeking z-test, request counting, everybody once per stage with bias w, strata by who served, "
        "plain opposite ratio) each fail the test that they should."
    ),
    "verdict.13": "One evaluation of a rollout with 4 kinds and 4 strata: under 1 ms.",
}
NOT_RUN: Final = ("verdict.4", "verdict.9", "verdict.10", "verdict.11")

"""In a log, where no panel can be redrawn, one line says what the panel would."""

from local.demo.follow import Seen
from local.demo.screen import line


def test_the_line_gives_rate_events_and_p99_of_each_version_and_the_gate_s_reason():
    live = {
        "1": {"rps": 37.5, "events": 12, "p50_ms": 11.2, "p99_ms": None, "users": 1711},
        "2": {"rps": 39.1, "events": 6, "p50_ms": 5.2, "p99_ms": 27.2, "users": 1766},
    }
    verdict = {"action": "hold", "reason": "dwell"}
    seen = Seen(run_id="r", rollout={"percent": 5.0}, evidence={"verdict": verdict, "live": live})
    text = line(seen, 12.0)
    assert "v1: 37.5 rps, 12 events, p99 - ms" in text
    assert "v2: 39.1 rps, 6 events, p99 27.2 ms" in text
    assert text.endswith("hold: dwell")

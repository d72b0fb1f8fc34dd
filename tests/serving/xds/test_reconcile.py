"""Silence and loss are told from health, by count."""

import pytest

from serving.control.xds.reconcile import Counts, Node


def heard(seconds: int, *, errors_per_s: int, received_per_s: int, requests_per_s: int = 100) -> Node:
    """A gateway that reports once a second from second 1 on."""
    node = Node(since_s=0.0, sample_fraction=0.1)
    for second in range(1, seconds + 1):
        for n in range(received_per_s):
            node.on_error("c", second - 1 + (n + 0.5) / received_per_s)
        node.on_log(float(second))
        counts = Counts(at_s=float(second), requests=requests_per_s * second, errors=errors_per_s * second)
        node.on_counts({"c": counts}, float(second))
    return node


def reason(node: Node, now_s: float) -> str | None:
    return node.stale([node.count("g", name) for name in node.clusters], now_s)


def test_more_than_one_in_a_hundred_missing_is_stale() -> None:
    """98 of 100 is not enough, 100 of 100 is."""
    assert "never arrived" in (reason(heard(40, errors_per_s=100, received_per_s=98), 40.5) or "")
    assert reason(heard(40, errors_per_s=100, received_per_s=100), 40.5) is None


def test_a_single_lost_event_is_seen_when_there_was_only_one() -> None:
    """A quiet service has no other evidence."""
    node = heard(3, errors_per_s=0, received_per_s=0)
    for second in (4, 5, 6):
        node.on_counts({"c": Counts(at_s=float(second), requests=400, errors=1)}, float(second))
    assert reason(node, 6.0) == "1 of 1 failed requests of c never arrived in the log"


def test_entries_still_on_their_way_are_not_missed() -> None:
    """The errors of the newest second are not compared yet."""
    node = heard(10, errors_per_s=0, received_per_s=0)
    node.on_counts({"c": Counts(at_s=11.0, requests=1_100, errors=50)}, 11.0)
    assert reason(node, 11.0) is None


def test_a_cluster_that_appears_is_counted_from_zero() -> None:
    """Its first report already holds errors: they are compared, not taken for the start."""
    node = heard(3, errors_per_s=0, received_per_s=0)
    for second in (4, 5, 6):
        node.on_counts({"new": Counts(at_s=float(second), requests=9, errors=9)}, float(second))
    assert node.count("g", "new").errors == 9


def test_what_happened_before_this_controller_is_not_missed() -> None:
    """The first report is where counting starts."""
    node = Node(since_s=0.0)
    for second in (1, 2, 3, 4):
        node.on_counts({"c": Counts(at_s=float(second), requests=10_000, errors=500)}, float(second))
    assert reason(node, 4.0) is None


def test_a_gateway_that_started_anew_is_counted_anew() -> None:
    """Counters that go back are a new Envoy."""
    node = heard(5, errors_per_s=10, received_per_s=10)
    for second in (6, 7, 8):
        node.on_counts({"c": Counts(at_s=float(second), requests=20, errors=5)}, float(second))
    count = node.count("g", "c")
    assert (count.requests, count.errors) == (20, 5)


@pytest.mark.parametrize(("requests_per_s", "stale"), [(100, True), (1, False)])
def test_a_silent_log_is_stale_only_while_requests_flow(requests_per_s: int, stale: bool) -> None:
    """11 s of silence at a sample of 10 %: 110 entries are missing, or about one."""
    node = heard(20, errors_per_s=0, received_per_s=0, requests_per_s=requests_per_s)
    node.last_log_s = 8.9
    assert ("silent" in (reason(node, 20.0) or "")) is stale


def test_a_gateway_without_counters_is_stale() -> None:
    """Without them nothing can be compared; a connection of 11 s is old enough to have sent some."""
    assert reason(Node(since_s=0.0), 5.0) is None
    assert reason(Node(since_s=0.0), 11.0) == "no counters for 11 s"
    assert reason(heard(5, errors_per_s=1, received_per_s=1), 16.0) == "no counters for 11 s"


def removed_after(seconds: int) -> Node:
    """Cluster "c" lost all of its 10 errors a second, then the gateway dropped it; "d" goes on."""
    node = heard(10, errors_per_s=10, received_per_s=0)
    for second in range(11, 11 + seconds):
        node.on_log(float(second))
        node.on_counts({"d": Counts(at_s=float(second), requests=second, errors=0)}, float(second))
    return node


def test_a_cluster_that_was_removed_is_forgotten_a_minute_later() -> None:
    """Its last minute would otherwise stand still: evidence stale for ever because of a version long retired."""
    assert "never arrived" in (reason(removed_after(55), 66.0) or "")
    node = removed_after(61)
    assert (reason(node, 72.0), set(node.clusters)) == (None, {"d"})


def test_a_late_entry_does_not_bring_a_removed_cluster_back() -> None:
    node = removed_after(61)
    node.on_error("c", 10.5)
    node.on_counts({"d": Counts(at_s=73.0, requests=73, errors=0)}, 73.0)
    assert set(node.clusters) == {"d"}


def test_a_removed_cluster_has_no_rate() -> None:
    """Counted with that of the version that took its place, it would halve what is sampled."""
    assert heard(10, errors_per_s=0, received_per_s=0).count("g", "c").requests_per_s == 100
    assert removed_after(6).count("g", "c").requests_per_s == 0


def test_a_gap_of_minutes_in_the_reports_is_no_new_cluster() -> None:
    """The controller was away, Envoy was not: its counters are not counted from zero."""
    node = heard(10, errors_per_s=10, received_per_s=10)
    for second in (200, 201, 202, 203):
        node.on_counts({"c": Counts(at_s=float(second), requests=20_000, errors=2_000)}, float(second))
    assert (node.count("g", "c").errors, reason(node, 203.0)) == (0, None)


def test_old_counts_leave_the_span() -> None:
    """A loss is visible for a minute after it, then evidence may be trusted again."""
    node = heard(10, errors_per_s=10, received_per_s=0)
    for second in range(11, 90):
        node.on_log(float(second))
        node.on_counts({"c": Counts(at_s=float(second), requests=1_000, errors=100)}, float(second))
    assert reason(node, 89.0) is None

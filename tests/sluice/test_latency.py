"""What stable was like lately: a window, quantiles, and ids that came before."""

from sluice.latency import Latencies, RecentIds, quantile


def test_latencies_keep_at_most_so_many_of_a_second():
    window = Latencies()
    for number in range(1000):
        window.add(1.0, float(number))
    assert window.limits(2.0) is None


def test_quantiles_are_values_that_were_seen():
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert quantile([float(n) for n in range(1, 101)], 0.5) == 50.0


def test_request_ids_are_forgotten_in_generations():
    ids = RecentIds(size=3)
    assert [ids.seen(name) for name in "aab"] == [False, True, False]
    assert not ids.seen("c")
    assert ids.seen("a")
    assert [ids.seen(name) for name in "defg"] == [False] * 4
    assert not ids.seen("a")
    assert not ids.seen("")
    assert not ids.seen("")

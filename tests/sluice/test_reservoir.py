"""The sample by strata: what it is, whatever the order; and that it is fair."""

from collections import Counter
from datetime import date, timedelta

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from sluice.reservoir import FREQUENT_FROM, STRATA, Reservoir, Seen, histogram_length, length_class, priority

LENGTHS = (4, 8)
FIRST_DAY = date(2026, 1, 1)


def content(number):
    """As the recorder makes them: 16 hex digits."""
    return xxhash.xxh64_hexdigest(f"content {number}".encode())


def length(number):
    return number % 12


# which content, on which day
OFFERS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=200)


def filled(offers, *, salt="salt", per_stratum=3, table=65_536):
    reservoir = Reservoir(salt, per_stratum, LENGTHS, table=table)
    for number, day in offers:
        reservoir.offer(content(number), length(number), FIRST_DAY + timedelta(days=day), f"payload {number}")
    return reservoir


def picture(reservoir):
    """Everything that anybody can see of it."""
    return reservoir.kept(), dict(reservoir.strata), dict(reservoir.histogram), reservoir.seen


def by_definition(offers, *, salt="salt", per_stratum=3):
    """The sample from its definition, with everything in memory: (stratum, content) -> count."""
    counts, wanted = Counter(number for number, _ in offers), {}
    for name in ("short", "medium", "long"):
        own = [number for number in counts if length_class(length(number), LENGTHS) == name]
        own.sort(key=lambda number: priority(salt, content(number)))
        frequent = [number for number in own if counts[number] >= FREQUENT_FROM]
        rare = [number for number in own[:per_stratum] if counts[number] < FREQUENT_FROM]
        wanted |= {(f"{name}-frequent", content(n)): counts[n] for n in frequent[:per_stratum]}
        wanted |= {(f"{name}-rare", content(n)): counts[n] for n in rare}
    return wanted


@given(OFFERS, st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_the_sample_is_the_one_of_its_definition_with_exact_counts(offers, per_stratum):
    """Bounded memory gives what unbounded memory would: strata, contents, counts."""
    kept = filled(offers, per_stratum=per_stratum).kept()
    got = {(stratum, seen.content): seen.count for stratum, seen in kept}
    assert got == by_definition(offers, per_stratum=per_stratum)


@given(OFFERS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_the_traffic_changes_nothing(offers, random):
    """Nor do the days, the histogram, or the counts of what was not kept."""
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert picture(filled(offers)) == picture(filled(shuffled))


@given(OFFERS)
@settings(max_examples=100, deadline=None)
def test_what_is_counted_is_all_that_was_seen(offers):
    reservoir = filled(offers)
    counts = Counter(number for number, _ in offers)
    wanted = Counter()
    for number, count in counts.items():
        often = "frequent" if count >= FREQUENT_FROM else "rare"
        wanted[f"{length_class(length(number), LENGTHS)}-{often}"] += count
    assert dict(reservoir.strata) == {name: wanted[name] for name in STRATA}
    assert reservoir.seen == len(offers) == sum(reservoir.histogram.values())
    assert Counter(reservoir.histogram) == Counter(length(number) for number, _ in offers)


@given(OFFERS, st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_no_stratum_has_more_than_its_share_even_when_the_table_is_too_small(offers, per_stratum, table):
    """And what is kept still has its own payload, days and at most its true count."""
    kept = filled(offers, per_stratum=per_stratum, table=table).kept()
    counts = Counter(content(number) for number, _ in offers)
    assert max(Counter(stratum for stratum, _ in kept).values(), default=0) <= per_stratum
    assert all(seen.count <= counts[seen.content] for _, seen in kept)


@given(OFFERS, st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_a_restart_goes_on_with_the_same_sample(offers, cut):
    """Read back and gone on, while nothing that was turned away turns frequent later: the sample of one life."""
    offers = [(number, day) for number, day in offers if number > 20] or [(30, 0)]
    first, whole = filled(offers[:cut], per_stratum=40), filled(offers, per_stratum=40)
    second = Reservoir("salt", 40, LENGTHS)
    second.restore((seen for _, seen in first.kept()), strata=first.strata, histogram=first.histogram)
    for number, day in offers[cut:]:
        second.offer(content(number), length(number), FIRST_DAY + timedelta(days=day), f"payload {number}")
    assert picture(second) == picture(whole)


def test_the_same_salt_gives_the_same_bits_and_another_salt_another_sample():
    offers = [(number, 0) for number in range(2_000)]
    one, same, other = (filled(offers, salt=salt, per_stratum=50) for salt in ("a", "a", "b"))
    assert picture(one) == picture(same)
    shared = {seen.content for _, seen in one.kept()} & {seen.content for _, seen in other.kept()}
    assert len(shared) < 50  # of 150; by chance 11


def test_the_table_holds_so_many_and_a_content_that_fell_out_begins_anew():
    """The stated cost of its bound: sights further apart than the table are not joined."""

    def count_of_last(between, table):
        reservoir = Reservoir("salt", 1, LENGTHS, table=table)
        ranks = sorted(range(2_000), key=lambda number: priority("salt", content(number)))
        smallest, watched, others = ranks[0], ranks[1], ranks[2 : 2 + between]
        for number in (smallest, *[watched] * 2, *others, watched):
            reservoir.offer(content(number), 1, FIRST_DAY, number)
        return {seen.content: seen.count for _, seen in reservoir.kept()}.get(content(watched))

    assert count_of_last(between=99, table=100) == 3
    assert count_of_last(between=100, table=100) is None


# --- fairness: seeded, with a broken twin --------------------------------------------------------

CONTENTS, KEPT, ROUNDS = 60, 12, 2_000


def first_come(offers, salt):
    """The broken twin: keeps whatever was there first, so that the popular ones are in it."""
    return list(dict.fromkeys(number for number, _ in offers))[:KEPT]


def bottom_k(offers, salt):
    kept = filled([(12 * number, day) for number, day in offers], salt=salt, per_stratum=KEPT).kept()
    names = {content(12 * number): number for number in range(CONTENTS)}
    return [names[seen.content] for stratum, seen in kept if stratum == "short-rare"]


def misfit(sample):
    """Chi-square of how often each content was kept, over many salts; popular contents come first and twice."""
    offers = [(number, 0) for number in range(CONTENTS)] + [(number, 0) for number in range(10)]
    times = Counter()
    for turn in range(ROUNDS):
        times.update(sample(offers, f"salt {turn}"))
    expected = ROUNDS * KEPT / CONTENTS
    return sum((times[number] - expected) ** 2 for number in range(CONTENTS)) / expected


def test_every_content_is_as_likely_as_any_other_however_often_it_is_seen():
    """59 degrees of freedom at 1e-6. Draws without replacement make the true statistic smaller by 1 - 12/60."""
    bar = chi2.ppf(1 - 1e-6, CONTENTS - 1)
    assert misfit(bottom_k) < bar
    assert misfit(first_come) > 100 * bar


# --- small things --------------------------------------------------------------------------------


@given(st.integers(0, 2**31))
def test_long_lengths_are_counted_to_one_part_in_64(number):
    counted = histogram_length(number)
    assert counted == number if number < 1024 else 0 <= number - counted < number / 64


def test_the_histogram_is_bounded():
    """Every length to 2**20 falls into one of 1 024 + 64 for each doubling."""
    octaves = {
        histogram_length(2**bits + step * 2**bits // 640) for bits in range(10, 31) for step in range(640)
    }
    assert len(octaves) == 64 * 21
    assert 1024 + len(octaves) <= 2_400


@pytest.mark.parametrize(
    ("number", "name"), [(0, "short"), (4, "short"), (5, "medium"), (8, "medium"), (9, "long")]
)
def test_bounds_belong_to_the_shorter_class(number, name):
    assert length_class(number, LENGTHS) == name


@pytest.mark.parametrize(
    ("per_stratum", "lengths", "table"),
    [(0, (1, 2), 1), (1, (2, 2), 1), (1, (0, 2), 1), (1, (3, 2), 1), (1, (1, 2), 0)],
)
def test_nonsense_is_refused(per_stratum, lengths, table):
    with pytest.raises(ValueError, match="ascending"):
        Reservoir("salt", per_stratum, lengths, table=table)


def test_several_sights_at_once_are_the_sights_one_by_one():
    one_by_one, at_once = filled([(7, 0), (7, 2), (7, 1), (3, 0)]), Reservoir("salt", 3, LENGTHS)
    last = FIRST_DAY + timedelta(days=2)
    at_once.add(Seen(content=content(7), length=7, count=3, first=FIRST_DAY, last=last, payload="payload 7"))
    at_once.add(
        Seen(content=content(3), length=3, count=1, first=FIRST_DAY, last=FIRST_DAY, payload="payload 3")
    )
    assert picture(one_by_one) == picture(at_once)

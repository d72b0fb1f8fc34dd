"""Which of a service's inputs are kept: a fair sample of what is different, in bounded memory. Pure.

Problem: INT8 ranges follow the inputs that calibrate them. Live traffic repeats itself: a plain sample of requests is
full of the ten most popular inputs, and the long and rare ones, which stretch the ranges, are not in it.

So the unit is the *content* (one distinct input), and contents are sampled in strata: length class x how often seen.
The priority of a content is xxh64(salt + ":" + content). For each length class two bottom-k samples are held, k being
`per_stratum`: the k smallest priorities of all contents, and the k smallest of the frequent ones. A sample's stratum
`frequent` is the second; `rare` is what of the first is not frequent.

Invariants:
- The sample depends on which contents were offered how often, never on their order: both sets only ever grow, and the k
  smallest of a growing set are known without the rest. (Rare contents alone are no such set, since one may turn
  frequent and leave a place that was refused to another; hence `all`. A stratum `rare` is therefore up to as many
  short of k as its length class has frequent contents among the k smallest of all.)
- Within its set every content is as likely as any other, however often it was seen.
- The count of a kept content is exact from its first sight. The k-th smallest priority of a growing set only falls, so
  a content that is below it now was below it, and kept, at its first sight already. One that is kept for being
  frequent alone was counted in the table until then; it is exact unless it fell out of the table, see below.
- Memory: 3 classes x 2 x k payloads, `TABLE` counts, and a histogram of at most 2 400 numbers.

The table counts the contents that are not kept, so that the third sight of one is known. It holds `TABLE` of them, the
one not seen for the longest falls out, and its count begins anew: a content whose sights are further apart than
65 536 other contents can be taken for rare, or counted short before its third sight. Only then does order matter.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Final, Generic, NamedTuple, TypeVar

import xxhash

FREQUENT_FROM: Final = 3  # sights
PER_STRATUM: Final = 1000
LENGTHS: Final = (32, 128)  # short up to, medium up to
TABLE: Final = 65_536  # contents, about 200 bytes each: 13 MB
CLASSES: Final = ("short", "medium", "long")
RARE, FREQUENT = "rare", "frequent"
STRATA: Final = tuple(f"{name}-{often}" for name in CLASSES for often in (RARE, FREQUENT))
_EXACT_BITS: Final = 10  # lengths below 1 024 are counted as they are, longer ones to 1 part in 64
_PARTS_BITS: Final = 6

T = TypeVar("T")


def length_class(length: int, lengths: tuple[int, int] = LENGTHS) -> str:
    """`short`, `medium` or `long`. length: 0 or more. lengths: the longest short and the longest medium one."""
    return CLASSES[(length > lengths[0]) + (length > lengths[1])]


def histogram_length(length: int) -> int:
    """The length under which it is counted: itself below 1 024, else rounded down by less than 1 part in 64."""
    drop = max(0, length.bit_length() - 1 - _PARTS_BITS) if length.bit_length() > _EXACT_BITS else 0
    return length >> drop << drop


def priority(salt: str, content: str) -> int:
    """A number from 0 to 2**64 - 1 that is this content's own; the smallest are kept."""
    return xxhash.xxh64_intdigest(f"{salt}:{content}".encode())


class Sights(NamedTuple):
    """How often a content was seen, and on which days first and last."""

    times: int
    first: date
    last: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[T]):
    """One content, how often it was seen and when. payload: whatever the caller keeps of it."""

    content: str
    length: int
    count: int
    first: date
    last: date
    payload: T

    @property
    def sights(self) -> "Sights":
        """What is known of it without its payload."""
        return Sights(self.count, self.first, self.last)

    def joined(self, other: "Sights") -> "Seen[T]":
        """With earlier or later sights of the same content."""
        first, last = min(self.first, other.first), max(self.last, other.last)
        return replace(self, count=self.count + other.times, first=first, last=last)


class _Smallest(Generic[T]):
    """The `size` contents of smallest priority among all that were ever put in."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ranks: dict[str, int] = {}
        self.items: dict[str, Seen[T]] = {}
        self._worst: tuple[int, str] | None = (
            None  # of a full set; equal priorities are told apart by content
        )

    def takes(self, content: str, rank: int) -> bool:
        """Whether this content is or would be among the smallest."""
        return content in self.items or self._worst is None or (rank, content) < self._worst

    def put(self, item: Seen[T], rank: int) -> Seen[T] | None:
        """Put in what `takes` said yes to, or replace it; return the item that had to go."""
        new = item.content not in self.items
        self.items[item.content], self._ranks[item.content] = item, rank
        gone = None
        if new and len(self.items) > self._size and self._worst is not None:
            gone = self.items.pop(self._worst[1])
            del self._ranks[gone.content]
        if new and len(self.items) == self._size:
            self._worst = max((rank, content) for content, rank in self._ranks.items())
        return gone


class Reservoir(Generic[T]):
    """The sample of one service. Equal offers in any order, under the same salt, give the same sample."""

    def __init__(
        self,
        salt: str,
        per_stratum: int = PER_STRATUM,
        lengths: tuple[int, int] = LENGTHS,
        *,
        table: int = TABLE,
    ) -> None:
        """Raises ValueError unless per_stratum and table are 1 or more and the lengths ascend from 1 on."""
        if per_stratum < 1 or table < 1 or not 1 <= lengths[0] < lengths[1]:
            wanted = f"per_stratum {per_stratum}, table {table}, lengths {lengths}"
            raise ValueError(f"{wanted}: each must be 1 or more, the lengths ascending")
        self._salt, self._lengths, self._table_size = salt, lengths, table
        self._all: dict[str, _Smallest[T]] = {name: _Smallest(per_stratum) for name in CLASSES}
        self._frequent: dict[str, _Smallest[T]] = {name: _Smallest(per_stratum) for name in CLASSES}
        self._table: OrderedDict[str, Sights] = OrderedDict()
        self._strata: Counter[str] = Counter()
        self._histogram: Counter[int] = Counter()

    @property
    def seen(self) -> int:
        """Everything that was offered, kept or not."""
        return self._strata.total()

    @property
    def strata(self) -> Mapping[str, int]:
        """How much of it was of each stratum; all six names, their sum is `seen`."""
        return {name: self._strata[name] for name in STRATA}

    @property
    def histogram(self) -> Mapping[int, int]:
        """How much of it was of each length (see `histogram_length`), ascending; the sum is `seen`."""
        return dict(sorted(self._histogram.items()))

    def offer(self, content: str, length: int, day: date, payload: T) -> bool:
        """Count one sight; True when the content is kept now, and with it the payload."""
        return self.add(Seen(content=content, length=length, count=1, first=day, last=day, payload=payload))

    def add(self, item: Seen[T]) -> bool:
        """Count `item.count` sights at once, as `offer` would one by one; True when the content is kept now."""
        name = length_class(item.length, self._lengths)
        before = self._known(name, item.content)
        now = item if before is None else item.joined(before)
        self._count(name, item, 0 if before is None else before.times)
        return self._place(name, now)

    def stratum(self, item: Seen[T]) -> str:
        """`short-rare` and the like."""
        often = FREQUENT if item.count >= FREQUENT_FROM else RARE
        return f"{length_class(item.length, self._lengths)}-{often}"

    def kept(self) -> tuple[tuple[str, Seen[T]], ...]:
        """(stratum, content) of everything in the sample, by content; no stratum has more than per_stratum."""
        return tuple(
            sorted(((self.stratum(item), item) for item in self._held()), key=lambda pair: pair[1].content)
        )

    def restore(
        self, items: Iterator[Seen[T]], *, strata: Mapping[str, int], histogram: Mapping[int, int]
    ) -> None:
        """Go on from a sample of an earlier life, taken under the same salt. The table of that life is lost."""
        for item in items:
            self.add(item)
        self._strata, self._histogram = Counter(strata), Counter(histogram)

    def _held(self) -> Iterator[Seen[T]]:
        for name in CLASSES:
            frequent = self._frequent[name].items
            yield from frequent.values()
            yield from (item for content, item in self._all[name].items.items() if content not in frequent)

    def _known(self, name: str, content: str) -> Sights | None:
        found = self._all[name].items.get(content) or self._frequent[name].items.get(content)
        return self._table.get(content) if found is None else found.sights

    def _count(self, name: str, item: Seen[T], before: int) -> None:
        """Earlier sights of a content that turns frequent now become sights of a frequent one."""
        self._histogram[histogram_length(item.length)] += item.count
        if before + item.count < FREQUENT_FROM:
            self._strata[f"{name}-{RARE}"] += item.count
            return
        moved = before if before < FREQUENT_FROM else 0
        self._strata[f"{name}-{RARE}"] -= moved
        self._strata[f"{name}-{FREQUENT}"] += item.count + moved

    def _place(self, name: str, item: Seen[T]) -> bool:
        rank = priority(self._salt, item.content)
        wanted = [self._all[name]]
        if item.count >= FREQUENT_FROM:
            wanted.append(self._frequent[name])
        takers = [smallest for smallest in wanted if smallest.takes(item.content, rank)]
        if not takers:
            self._remember(item)
            return False
        self._table.pop(item.content, None)
        for smallest in takers:
            gone = smallest.put(item, rank)
            if gone is not None and not self._holds(name, gone.content):
                self._remember(gone)
        return True

    def _holds(self, name: str, content: str) -> bool:
        return content in self._all[name].items or content in self._frequent[name].items

    def _remember(self, item: Seen[T]) -> None:
        self._table[item.content] = item.sights
        self._table.move_to_end(item.content)
        if len(self._table) > self._table_size:
            self._table.popitem(last=False)

"""PromQL with placeholders in it, and what Prometheus answers, read strictly.

Problem: an answer that is empty, partial or of another shape must not turn into a number, and a name must not turn
into PromQL. Invariants: what is filled in is escaped as in PromQL's strings; `read_answer` takes whatever came and
never raises: what is wrong stands in the answer's `error`, and then there are no series.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any, Final

PLACEHOLDERS: Final = ("service", "version", "window")
REFUSALS: Final = (400, 422)  # Prometheus' own: the query cannot be read, or cannot be computed
SHOWN: Final = 3  # series of an answer in a message

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]\w*)\}")  # PromQL itself never has a bare name in braces
_HARMLESS: Final = "PromQL info"  # such a note says how to write a query better, not that data is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of an instant vector. value: may be NaN or infinite. at_s: unix seconds, Prometheus' clock."""

    labels: Mapping[str, str]
    value: float
    at_s: float

    def __str__(self) -> str:
        labels = ", ".join(f'{name}="{text}"' for name, text in sorted(self.labels.items()))
        return f"{{{labels}}} {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one query. refused: the query itself is at fault, asking again gives the same."""

    series: tuple[Series, ...] = ()
    error: str | None = None
    refused: bool = False

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        shown = "; ".join(map(str, self.series[:SHOWN])) or "nothing"
        left = len(self.series) - SHOWN
        return shown if left <= 0 else f"{shown} and {left} more"


def placeholders(text: str) -> tuple[str, ...]:
    """Every `{name}` of a query, in its order."""
    return tuple(_PLACEHOLDER.findall(text))


def filled(text: str, *, service: str, version: str, window_s: float) -> str:
    """The query as it is sent. Raises KeyError for a placeholder that is not known; the spec's checks refuse it."""
    values = {"service": _quoted(service), "version": _quoted(version), "window": duration(window_s)}
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def duration(seconds: float) -> str:
    """As PromQL writes it, to the millisecond: `60s`, `1500ms`."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def _quoted(text: str) -> str:
    """For a string in either kind of quotes: PromQL refuses an escape of the kind that does not enclose it."""
    escapes = {"\\": "\\\\", '"': "\\x22", "'": "\\x27", "\n": "\\n"}
    return "".join(escapes.get(letter, letter) for letter in text)


def read_answer(status: int, decoded: Any) -> Answer:
    """The answer of `/api/v1/query`. decoded: its JSON, None when it was none."""
    body: Mapping[str, Any] = decoded if isinstance(decoded, Mapping) else {}
    if status in REFUSALS and body.get("status") == "error":
        return Answer(error=f"Prometheus refused the query: {body.get('error')}", refused=True)
    if status >= 400 or body.get("status") != "success":
        return Answer(error=f"Prometheus answered {status}: {str(decoded)[:300]}")
    partial = [str(note) for note in body.get("warnings") or () if not str(note).startswith(_HARMLESS)]
    if partial:
        return Answer(error=f"Prometheus warns: {'; '.join(partial)[:300]}")
    data = body.get("data")
    kind = data.get("resultType") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or kind != "vector":
        return Answer(error=f"an instant vector is wanted, the query gives: {kind}", refused=True)
    try:
        return Answer(series=tuple(_series(row) for row in data["result"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Answer(error=f"Prometheus' answer cannot be read: {error!r}")


def _series(row: Mapping[str, Any]) -> Series:
    at_s, text = row["value"]
    labels = {str(name): str(label) for name, label in row["metric"].items()}
    return Series(labels=labels, value=_number(text), at_s=float(at_s))


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return nan  # there and not readable is not the same as absent

"""Copies of a service's requests for its recorder: the route's policy and the recorder's cluster. Pure.

Problem: what is copied for calibration must cost no client anything, whatever state the recorder is in, and must not
say who sent it. Invariants: a copy carries the headers that say how its body is to be read and no other; few copies are
under way at once, the rest are dropped, never queued; a recorder's cluster serves no client, so its counters are no
evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.percent_pb2 import FractionalPercent

PASSED_ON: Final = (
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "inference-header-content-length",
)
CONNECT_MS: Final = 250
# A copy needs a millisecond of the recorder: 16 under way are thousands a second. Each may hold BUFFER bytes.
MAX_CONNECTIONS: Final = 16
MAX_PENDING: Final = 16
MAX_COPIES: Final = 32
BUFFER: Final = 1024 * 1024
IDLE_S: Final = 4


def mirror(action: RouteAction, cluster: str, millionths: int) -> None:
    """Have `millionths` of the route's requests, 1 to 1 000 000, copied to `cluster`."""
    policy = action.request_mirror_policies.add(cluster=cluster, disable_shadow_host_suffix_append=True)
    policy.runtime_fraction.default_value.numerator = millionths
    policy.runtime_fraction.default_value.denominator = FractionalPercent.MILLION
    policy.trace_sampled.value = False
    strip = policy.request_headers_mutations.add()
    strip.remove_on_match.key_matcher.safe_regex.regex = other_than(PASSED_ON)


@lru_cache(maxsize=8)
def other_than(names: tuple[str, ...]) -> str:
    """A regular expression for every header name but these and the pseudo-headers (RE2 has no lookahead)."""
    return _not_one_of(names, first_but=":")


def recorder_cluster(name: str, *, by_name: bool) -> Cluster:
    """The cluster without its endpoints' assignment. by_name: the recorder's host is to be looked up."""
    made = Cluster(name=name, type=Cluster.STRICT_DNS if by_name else Cluster.STATIC)
    if by_name:
        made.dns_lookup_family = Cluster.V4_PREFERRED
    made.connect_timeout.FromMilliseconds(CONNECT_MS)
    made.per_connection_buffer_limit_bytes.value = BUFFER
    limit = made.circuit_breakers.thresholds.add()
    limit.max_connections.value = MAX_CONNECTIONS
    limit.max_pending_requests.value = MAX_PENDING
    limit.max_requests.value = MAX_COPIES
    limit.max_retries.value = 0
    options = HttpProtocolOptions()
    options.explicit_http_config.http_protocol_options.SetInParent()
    options.common_http_protocol_options.idle_timeout.FromSeconds(IDLE_S)
    made.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].Pack(
        options
    )
    return made


def _classed(heads: str) -> str:
    """As a character class holds them: the minus last."""
    return heads.replace("-", "") + ("-" if "-" in heads else "")


def _not_one_of(words: Iterable[str], *, first_but: str = "") -> str:
    """Every text that is none of `words`, character by character; none beginning with `first_but`."""
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for word in words:
        if word:
            ends[word[0]].append(word[1:])
    heads = "".join(sorted({*ends, *first_but}))
    ways = [f"[^{_classed(heads)}].*" if heads else ".+"]
    ways += [f"{head}{_not_one_of(rest)}" for head, rest in sorted(ends.items())]
    if "" not in words:
        ways.append("")
    return f"(?:{'|'.join(ways)})"

"""Copies of a service's requests for its recorder: the route's policy and the recorder's cluster. Pure.

Problem: what is copied for calibration must cost no client anything, whatever state the recorder is in, and must not
say who sent it. Invariants: of the client's headers a copy carries those that say how its body is to be read and no
other; few copies are under way at once, the rest are dropped; a recorder's cluster serves no client, so its counters
are no evidence.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import pairwise
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
# A copy needs a millisecond of the recorder. What comes faster waits here, and above the limit is dropped and counted
# (upstream_rq_pending_overflow): a burst costs the sample some of itself, never the gateway its memory.
MAX_CONNECTIONS: Final = 16
MAX_PENDING: Final = 64
MAX_COPIES: Final = MAX_CONNECTIONS + MAX_PENDING
BUFFER: Final = 1024 * 1024  # bytes of each connection to the recorder
IDLE_S: Final = 4  # as to the versions
FIRST, LAST = "!", "~"  # of what a header name is made of
WAYS: Final = 5  # in one regular expression


def mirror(action: RouteAction, cluster: str, millionths: int) -> None:
    """Have `millionths` of the route's requests, 1 to 1 000 000, copied to `cluster`."""
    policy = action.request_mirror_policies.add(cluster=cluster, disable_shadow_host_suffix_append=True)
    policy.runtime_fraction.default_value.numerator = millionths
    policy.runtime_fraction.default_value.denominator = FractionalPercent.MILLION
    policy.trace_sampled.value = False
    for pattern in other_than(PASSED_ON):
        policy.request_headers_mutations.add().remove_on_match.key_matcher.safe_regex.regex = pattern


def recorder_cluster(name: str, *, by_name: bool) -> Cluster:
    """The cluster without its endpoint. by_name: the recorder's host is to be looked up."""
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


@lru_cache(maxsize=8)
def other_than(names: tuple[str, ...]) -> tuple[str, ...]:
    """Regular expressions of which one matches every header name but these and the pseudo-headers (`:path`, ...).

    RE2 has no lookahead, so they say where a name parts from the last of these: after `conten`, anything but a `t`.
    Envoy takes no expression whose program is longer than 100 steps, hence several.
    """
    following: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        for at, char in enumerate(name):
            following[name[:at]].add(char)
        following[name] |= set()
    following[""].add(":")
    ways = [_parting(prefix, chars, whole=prefix in names) for prefix, chars in sorted(following.items())]
    return tuple("|".join(ways[at : at + WAYS]) for at in range(0, len(ways), WAYS))


def _parting(prefix: str, following: set[str], *, whole: bool) -> str:
    """Every name that begins with `prefix` and goes on with none of `following`; `prefix` itself unless it is whole."""
    bounds = [ord(FIRST) - 1, *sorted(map(ord, following)), ord(LAST) + 1]
    ranges = [(low + 1, high - 1) for low, high in pairwise(bounds) if high - low > 1]
    other = "".join(rf"\x{low:02x}-\x{high:02x}" for low, high in ranges)
    rest = f"[{other}][{FIRST}-{LAST}]*"
    return f"{prefix}{rest}" if whole or not prefix else f"{prefix}(?:{rest})?"

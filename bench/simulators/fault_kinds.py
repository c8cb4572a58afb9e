"""The vocabulary of scripted faults: one struct per kind, tagged by `kind` in TOML and JSON. Data only.

Every fault has these fields beside its own:

    after_s       seconds from being armed (process start or PUT) until it begins
    for_s         seconds it lasts, real time; absent = no limit in time
    for_requests  requests it is applied to; absent = no limit in number. For `windows` it counts connections, for
                  `certificate` handshakes, for `stream_limit` all requests that come while it holds.
    share         0..1, chance that one request (connection, handshake) is hit; not for the kinds that hold a whole
                  simulator in a state: `stream_limit`, `stop_reading`, `half_open`
    applies_to    "send" (default), "save" (the first of two steps), "oauth" (the token endpoint) or "any": which
                  requests are hit

A fault without for_s and for_requests stays until it is deleted.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bench.simulators.h2_malformed import Form

HEADER_FLOOD_BYTES_MAX = 4 << 20  # per answer; encoding it holds the simulator for some seconds


class FaultBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """Fields of every fault; see the module docstring."""

    after_s: float = 0.0
    for_s: float | None = None
    for_requests: int | None = None
    share: float = 1.0
    applies_to: Literal["send", "save", "oauth", "any"] = "send"


class Latency(FaultBase, frozen=True, kw_only=True, tag="latency"):
    """Answers come late. fixed: `ms`. uniform: from `ms` to `ms_max`. lognormal: median `ms`, `sigma` of the logarithm.

    `jitter_ms` adds 0..jitter_ms, uniformly, to each. No answer is later than `ms_max` where that is given.
    """

    distribution: Literal["fixed", "uniform", "lognormal"] = "fixed"
    ms: float
    ms_max: float | None = None
    sigma: float = 0.5
    jitter_ms: float = 0.0


class ErrorShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of an error mix: this share of requests gets status and reason in the vendor's own body.

    status 200 is for vendors that tell an error by the code in the body of a 200.
    """

    share: float
    status: int
    reason: str
    retry_after_s: int | None = None


class Errors(FaultBase, frozen=True, kw_only=True, tag="errors"):
    """Requests are answered with errors instead of being judged. Shares in `mix` are of the requests hit by `share`."""

    mix: list[ErrorShare]


class Throttle(FaultBase, frozen=True, kw_only=True, tag="throttle"):
    """429 with the vendor's throttling reason, with or without Retry-After (seconds)."""

    retry_after_s: int | None = None


class RefusedStream(FaultBase, frozen=True, kw_only=True, tag="refused_stream"):
    """RST_STREAM REFUSED_STREAM: the request was not looked at. With share near 1 it is a storm."""


class ResetStream(FaultBase, frozen=True, kw_only=True, tag="reset_stream"):
    """RST_STREAM with `code` after the request was taken: the row is recorded, its sender does not know."""

    code: int = 2  # INTERNAL_ERROR, RFC 9113 section 7


class NoAnswer(FaultBase, frozen=True, kw_only=True, tag="no_answer"):
    """The request is taken and recorded, PINGs are answered, but the answer never comes."""


class Goaway(FaultBase, frozen=True, kw_only=True, tag="goaway"):
    """GOAWAY on the connection of the request that is hit; `reason` goes into its debug data in the vendor's form.

    graceful: last_stream_id 2^31-1 first, after `grace_ms` the true one; streams below it are answered, then closed.
    abrupt:   last_stream_id = this request, which is judged; those above are ignored; the connection is closed at once,
              so that waiting answers are lost.
    zero:     last_stream_id 0 and close; nothing of what is open was looked at.
    double:   last_stream_id 2^31-1 and, in the same write, this request's; below is answered, above is ignored.
    """

    form: Literal["graceful", "abrupt", "zero", "double"] = "graceful"
    reason: str = "Shutdown"
    grace_ms: float = 100.0


class ResetSocket(FaultBase, frozen=True, kw_only=True, tag="reset_socket"):
    """The TCP socket is reset (RST) when the request arrives. recorded: whether the row counts as received before."""

    recorded: bool = False


class TlsAbort(FaultBase, frozen=True, kw_only=True, tag="tls_abort"):
    """The socket ends (FIN) without a TLS close_notify when the request arrives."""

    recorded: bool = False


class Malformed(FaultBase, frozen=True, kw_only=True, tag="malformed"):
    """The request is taken and recorded; bytes that are no HTTP/2 come instead of its answer. See h2_malformed.

    The connection is left to the client, whose GOAWAY is counted by its code.
    """

    form: Form


class HeaderFlood(FaultBase, frozen=True, kw_only=True, tag="header_flood"):
    """Answers carry header fields of `bytes` more bytes (names and values), in fields of about 1 KiB."""

    bytes: int


class StreamLimit(FaultBase, frozen=True, kw_only=True, tag="stream_limit"):
    """SETTINGS_MAX_CONCURRENT_STREAMS drops to `limit` on all connections while it holds."""

    limit: int


class StopReading(FaultBase, frozen=True, kw_only=True, tag="stop_reading"):
    """Nothing is read from any connection while it holds; what was sent is answered afterwards."""


class HalfOpen(FaultBase, frozen=True, kw_only=True, tag="half_open"):
    """All connections fall silent: nothing is read, nothing sent, no FIN, not even to a client that closes.

    When it ends those sockets are reset, as a host that came back would.
    """


class Windows(FaultBase, frozen=True, kw_only=True, tag="windows"):
    """New connections get INITIAL_WINDOW_SIZE `initial` and never a WINDOW_UPDATE, on no stream and not in all."""

    initial: int = 65_535


class Certificate(FaultBase, frozen=True, kw_only=True, tag="certificate"):
    """New handshakes are served a certificate that is expired, or is for another host name."""

    form: Literal["expired", "wrong_host"] = "expired"


class Drop(FaultBase, frozen=True, kw_only=True, tag="drop"):
    """Success is answered but the row is lost: it is not recorded as received.

    row_share: of the rows of a request with many, so many are lost.
    """

    row_share: float = 1.0


class Double(FaultBase, frozen=True, kw_only=True, tag="double"):
    """Success is answered and the row is delivered twice: it is recorded two times.

    row_share: of the rows of a request with many, so many are doubled.
    """

    row_share: float = 1.0


Fault = (
    Latency
    | Errors
    | Throttle
    | RefusedStream
    | ResetStream
    | NoAnswer
    | Goaway
    | ResetSocket
    | TlsAbort
    | Malformed
    | HeaderFlood
    | StreamLimit
    | StopReading
    | HalfOpen
    | Windows
    | Certificate
    | Drop
    | Double
)

STATE_KINDS = (StreamLimit, StopReading, HalfOpen)  # hold a whole simulator in a state
CONNECTION_KINDS = (Windows, Certificate)  # are applied when a connection begins


def kind_of(fault: Fault) -> str:
    """The `kind` tag of a fault."""
    return str(type(fault).__struct_config__.tag)


def check_fault(fault: Fault) -> None:
    """Returns when the numbers of `fault` make sense.

    Raises:
        ValueError: which field, its value, and what was expected.
    """
    if not 0 <= fault.share <= 1:
        raise ValueError(f"share is {fault.share}, expected 0..1")
    _at_least("after_s", fault.after_s, 0)
    _at_least("for_s", fault.for_s, 0)
    _at_least("for_requests", fault.for_requests, 1)
    if isinstance(fault, (StopReading, HalfOpen)) and fault.for_requests is not None:
        raise ValueError(
            f"for_requests is {fault.for_requests}, but no request is seen during {kind_of(fault)}: use for_s"
        )
    match fault:
        case Latency():
            for name in ("ms", "ms_max", "sigma", "jitter_ms"):
                _at_least(name, getattr(fault, name), 0)
            if fault.distribution == "uniform" and (fault.ms_max is None or fault.ms_max < fault.ms):
                raise ValueError(f"ms_max is {fault.ms_max}, expected at least ms ({fault.ms}) for a uniform latency")
        case Errors():
            if not fault.mix or any(not 0 <= line.share <= 1 for line in fault.mix):
                raise ValueError("mix has no line or a share outside 0..1")
            if sum(line.share for line in fault.mix) > 1 + 1e-9:
                raise ValueError(f"shares of mix add up to {sum(line.share for line in fault.mix)}, limit 1")
            if any(line.status != 200 and not 400 <= line.status <= 599 for line in fault.mix):
                raise ValueError("mix has a status that is neither 200 nor 400..599")
        case Drop() | Double() if not 0 <= fault.row_share <= 1:
            raise ValueError(f"row_share is {fault.row_share}, expected 0..1")
        case StreamLimit():
            _at_least("limit", fault.limit, 0)
        case HeaderFlood() if not 1 <= fault.bytes <= HEADER_FLOOD_BYTES_MAX:
            raise ValueError(f"bytes is {fault.bytes}, expected 1..{HEADER_FLOOD_BYTES_MAX}")
        case Windows() if not 0 <= fault.initial <= 2**31 - 1:
            raise ValueError(f"initial is {fault.initial}, expected 0..2147483647 (RFC 9113 section 6.5.2)")
        case ResetStream() if not 0 <= fault.code <= 2**32 - 1:
            raise ValueError(f"code is {fault.code}, expected 0..4294967295")
        case _:
            pass


def _at_least(name: str, value: Any, least: float) -> None:
    if value is not None and not least <= value <= 1e9:
        raise ValueError(f"{name} is {value}, expected {least}..1e9")

"""Strategy: which way a row goes, from presence, token, strategy and TTL. One table look-up per row.

Strategies (the caller's word, per batch and overridable per channel of the device):

    1  online -> long link; offline -> vendor; no token -> inbox (default)
    2  vendor only; no token -> drop
    3  long link only; offline -> inbox
    4  vendor first; no token, or the vendor finally refused -> long link when online, else inbox

TTL 0 means now or never: such a row never goes to the inbox. Every rule stands as a line in one of the three literal
tables below; the arrays are built from them once, and a missing line fails at import.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping

import numpy as np

from gateway.columns import U8, Bool

#: What a strategy may be; 0 is no strategy.
STRATEGIES = (1, 2, 3, 4)
STRATEGY_DEFAULT = 1
#: Channel code of a device without a vendor channel.
NO_CHANNEL = 0


class Route(enum.IntEnum):
    """Where a row goes next."""

    LONG_LINK = 0
    VENDOR = 1
    INBOX = 2
    #: Vendor only, and the device has no usable token.
    DROP_NO_CHANNEL = 3
    #: Nobody registered this device with this app.
    DROP_UNKNOWN = 4
    #: Now or never, and not now: the device is offline and the strategy leaves no other way.
    DROP_OFFLINE = 5
    #: After a failure: no way is left; the row ends failed with the reason of its last attempt.
    FAIL = 6
    #: After a hand-over that was not acknowledged: now or never, and now is over.
    EXPIRE = 7
    #: The app blocks the device; no strategy asks for it.
    DROP_BLOCKED = 8
    #: The device's user has switched notifications off.
    DROP_CLOSED = 9


#: (strategy, online, token) -> (route, route when the TTL is 0).
_FIRST: dict[tuple[int, bool, bool], tuple[Route, Route]] = {
    (1, False, False): (Route.INBOX, Route.DROP_OFFLINE),
    (1, False, True): (Route.VENDOR, Route.VENDOR),
    (1, True, False): (Route.LONG_LINK, Route.LONG_LINK),
    (1, True, True): (Route.LONG_LINK, Route.LONG_LINK),
    (2, False, False): (Route.DROP_NO_CHANNEL, Route.DROP_NO_CHANNEL),
    (2, False, True): (Route.VENDOR, Route.VENDOR),
    (2, True, False): (Route.DROP_NO_CHANNEL, Route.DROP_NO_CHANNEL),
    (2, True, True): (Route.VENDOR, Route.VENDOR),
    (3, False, False): (Route.INBOX, Route.DROP_OFFLINE),
    (3, False, True): (Route.INBOX, Route.DROP_OFFLINE),
    (3, True, False): (Route.LONG_LINK, Route.LONG_LINK),
    (3, True, True): (Route.LONG_LINK, Route.LONG_LINK),
    (4, False, False): (Route.INBOX, Route.DROP_OFFLINE),
    (4, False, True): (Route.VENDOR, Route.VENDOR),
    (4, True, False): (Route.LONG_LINK, Route.LONG_LINK),
    (4, True, True): (Route.VENDOR, Route.VENDOR),
}

#: (strategy, online) -> (route, route when the TTL is 0), after the vendor's final verdict was a failure.
_AFTER_VENDOR: dict[tuple[int, bool], tuple[Route, Route]] = {
    (1, False): (Route.FAIL, Route.FAIL),
    (1, True): (Route.FAIL, Route.FAIL),
    (2, False): (Route.FAIL, Route.FAIL),
    (2, True): (Route.FAIL, Route.FAIL),
    # A row of strategy 3 is at a vendor only if its strategy was changed under way.
    (3, False): (Route.FAIL, Route.FAIL),
    (3, True): (Route.FAIL, Route.FAIL),
    (4, False): (Route.INBOX, Route.FAIL),
    (4, True): (Route.LONG_LINK, Route.LONG_LINK),
}

#: (strategy, token) -> (route, route when the TTL is 0), after the socket closed or the hand-over delay passed
#: without an acknowledgement. Strategy 4 has had its vendor attempt, or there was no token.
_AFTER_LONG_LINK: dict[tuple[int, bool], tuple[Route, Route]] = {
    (1, False): (Route.INBOX, Route.EXPIRE),
    (1, True): (Route.VENDOR, Route.VENDOR),
    # A row of strategy 2 is on the long link only if its strategy was changed under way.
    (2, False): (Route.FAIL, Route.FAIL),
    (2, True): (Route.VENDOR, Route.VENDOR),
    (3, False): (Route.INBOX, Route.EXPIRE),
    (3, True): (Route.INBOX, Route.EXPIRE),
    (4, False): (Route.INBOX, Route.EXPIRE),
    (4, True): (Route.INBOX, Route.EXPIRE),
}


def _lut_first() -> U8:
    """(128,) route by strategy << 4 | known << 3 | online << 2 | token << 1 | ttl_zero."""
    lut = np.full(128, 255, np.uint8)
    both = (False, True)
    for strategy, is_known, is_online, has_token, ttl_zero in itertools.product(STRATEGIES, both, both, both, both):
        route = _FIRST[strategy, is_online, has_token][ttl_zero] if is_known else Route.DROP_UNKNOWN
        lut[strategy << 4 | is_known << 3 | is_online << 2 | has_token << 1 | ttl_zero] = route
    return lut


def _lut_after(table: Mapping[tuple[int, bool], tuple[Route, Route]]) -> U8:
    """(32,) route by strategy << 2 | condition << 1 | ttl_zero."""
    lut = np.full(32, 255, np.uint8)
    for strategy, condition, ttl_zero in itertools.product(STRATEGIES, (False, True), (False, True)):
        lut[strategy << 2 | condition << 1 | ttl_zero] = table[strategy, condition][ttl_zero]
    return lut


_LUT_FIRST = _lut_first()
_LUT_AFTER_VENDOR = _lut_after(_AFTER_VENDOR)
_LUT_AFTER_LONG_LINK = _lut_after(_AFTER_LONG_LINK)


def decide(strategy: U8, *, is_known: Bool, is_online: Bool, has_token: Bool, ttl_zero: Bool) -> U8:
    """(n,) uint8 `Route` of each row. All arguments (n,); strategy: 1..4, checked at the door.

    Of an unknown row the device's columns are ignored. Raises IndexError for a strategy above 7.
    """
    index = strategy << 1
    index |= is_known.view(np.uint8)
    index <<= 1
    index |= is_online.view(np.uint8)
    index <<= 1
    index |= has_token.view(np.uint8)
    index <<= 1
    index |= ttl_zero.view(np.uint8)
    routes: U8 = _LUT_FIRST[index]
    return routes


def after_vendor_failure(strategy: U8, *, is_online: Bool, ttl_zero: Bool) -> U8:
    """(n,) uint8 `Route` after a final verdict other than ACCEPTED and UNCERTAIN: LONG_LINK, INBOX or FAIL.

    Strategy 4 falls back, all others end. The caller tells rows that fell back once (they come here only once).
    """
    routes: U8 = _LUT_AFTER_VENDOR[strategy << 2 | is_online.view(np.uint8) << 1 | ttl_zero.view(np.uint8)]
    return routes


def after_long_link_failure(strategy: U8, *, has_token: Bool, ttl_zero: Bool) -> U8:
    """(n,) uint8 `Route` of rows handed to a socket and not acknowledged: VENDOR, INBOX, FAIL or EXPIRE."""
    routes: U8 = _LUT_AFTER_LONG_LINK[strategy << 2 | has_token.view(np.uint8) << 1 | ttl_zero.view(np.uint8)]
    return routes


def strategy_table(strategy: int | Mapping[str, int], channel_codes: Mapping[str, int]) -> U8:
    """(256,) uint8: the strategy of one variant by the channel code of the device.

    strategy: one for all, or one per channel name and `default` (itself 1 when missing). channel_codes: the codes of
    all channels the gateway knows; `long_link` stands for devices without a vendor channel.

    Raises ValueError for an unknown channel name or a strategy that is none; the text is fit for the caller.
    """
    by_name = {"default": strategy} if isinstance(strategy, int) else strategy
    for name, value in by_name.items():
        if value not in STRATEGIES:
            raise ValueError(f"strategy of {name} is {value}, expected 1, 2, 3 or 4")
    table = np.full(256, by_name.get("default", STRATEGY_DEFAULT), np.uint8)
    codes = {**channel_codes, "long_link": NO_CHANNEL}
    for name, value in by_name.items():
        if name == "default":
            continue
        if name not in codes:
            raise ValueError(f"strategy names channel {name}, expected one of default, {', '.join(sorted(codes))}")
        table[codes[name]] = value
    return table

"""What the vendors with an HTTP API of their own have in common: a judge in three steps, and the way to its refusals.

    request --read (pure)--> refusal or what to send --pace (rate)--> --take (daily caps, memory, receipts)--> answer

`read` has no effect, so that a request that is refused or throttled is forgotten: it leaves neither an idempotency key
nor a used-up quota behind. A vendor file derives from PushApi, raises Refused wherever its document has a code, and is
told everything that changes (clock, chance) by its Kit.
"""

from __future__ import annotations

import random
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlsplit

from bench.simulators.clock import Clock
from bench.simulators.config_base import Frozen, Port, Seconds
from bench.simulators.exchange import Answer, Header, Request
from bench.simulators.fates import Fate, Fates
from bench.simulators.fault_kinds import Fault
from bench.simulators.fields import Check, parsed, to_json
from bench.simulators.fields import Fault as FieldFault
from bench.simulators.rate import DeviceWindow, TokenBucket
from bench.simulators.receipts import Callback, Due, ReceiptPlan, ReceiptsSection
from bench.simulators.received import Message, message_id_in, row_of

JSON_HEADERS: tuple[Header, ...] = ((b"content-type", b"application/json;charset=UTF-8"),)
DAY_S = 86_400.0
SHANGHAI_S = 8 * 3_600.0  # the vendors' day begins at midnight of Asia/Shanghai, which knows no summer time
TOKEN_LIST = re.compile(rb'"token"\s*:\s*\[[^\]]*\]')
FORM_TYPE = "application/x-www-form-urlencoded"


class PushSection(Frozen, frozen=True, kw_only=True):
    """Keys of every vendor derived from PushApi. rate_per_s: 0 = no limit; burst 0 = one second of the rate."""

    enabled: bool = False
    port: Port = 0
    protocols: tuple[Literal["h2", "http/1.1"], ...] = ("h2", "http/1.1")
    rate_per_s: Seconds = 0.0
    burst: Seconds = 0.0
    fates: tuple[Fate, ...] = ()
    faults: tuple[Fault, ...] = ()
    receipts: ReceiptsSection = ReceiptsSection()


@dataclass(frozen=True, slots=True)
class Kit:
    """What a vendor gets to work with. is_strict: a field that no document names is refused, else counted.

    n_seen: counter of variants, of unknown fields and of whatever a document leaves open.
    region: of a vendor with one simulator per region, else empty.
    """

    clock: Clock
    chance: random.Random
    n_seen: Counter[str]
    is_strict: bool
    directory: Path
    region: str = ""


class Refused(Exception):
    """Ends the judgement of one request with the vendor's code; never leaves `judge`.

    text: the vendor's words, where they differ from those of the code's table. data: goes into the body beside them.
    """

    def __init__(self, code: str, why: str, *, status: int = 0, text: str = "", data: Any = None) -> None:
        super().__init__(code)
        self.code = code
        self.why = why
        self.status = status
        self.text = text
        self.data = data
        self.retry_after_s: int | None = None


class PushApi:
    """Base of the vendors; implements exchange.Vendor but for `answer_call` and `refusal`.

    Class attributes of a vendor:
        known_fates: sync ones (the vendor's word in its answer) and those of receipt_fates.
        receipt_fates: fate -> event of the receipt that comes later; the request itself succeeds.
        events: the vendor's words for delivered, displayed and clicked ("" = it has no such receipt).
        throttle_code, fault_code: (HTTP status, code) for too high a rate, and for a server that fails or goes.
        oauth_paths, save_paths: whose requests are calls of these names; all others are "send".
    """

    name = ""
    body_bytes_max = 8 << 20  # a thousand messages of one batch request, at what the widest of them may hold
    known_fates: ClassVar[frozenset[str]] = frozenset()
    receipt_fates: ClassVar[Mapping[str, str]] = {}
    events: ClassVar[tuple[str, str, str]] = ("", "", "")
    throttle_code: ClassVar[tuple[int, str]] = (503, "503")
    fault_code: ClassVar[tuple[int, str]] = (500, "500")
    oauth_paths: ClassVar[frozenset[str]] = frozenset()
    save_paths: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, section: PushSection, kit: Kit) -> None:
        self.kit = kit
        self.fates = self.fresh_fates(section)
        self.plan = ReceiptPlan(section.receipts, kit.chance, self.events)
        self.n_without_message_id = 0
        self._rate = (section.rate_per_s, section.burst or section.rate_per_s)
        self._bucket = TokenBucket(*self._rate, kit.clock.now_unix_s())

    @classmethod
    def fresh_fates(cls, section: PushSection) -> Fates:
        """The fates of the configuration."""
        return Fates(section.fates, cls.known_fates | frozenset(cls.receipt_fates))

    @classmethod
    def regions_of(cls, section: Any) -> Sequence[str]:
        """The regions with a simulator of their own; the first one bears the vendor's bare name."""
        return ("",)

    @classmethod
    def region_port(cls, section: Any, region: str) -> int:
        """The port of a further region's simulator; 0 = a free one."""
        return int(section.region_ports.get(region, 0))

    # ---- exchange.Vendor

    def new_bond(self, certificate_topics: frozenset[str]) -> None:
        """Nothing is remembered of a connection."""

    def call_of(self, request: Request) -> str:
        """ "oauth", "save" or "send", by the path."""
        path = path_of(request)
        return "oauth" if path in self.oauth_paths else "save" if path in self.save_paths else "send"

    def judge(self, request: Request, bond: None) -> Answer:
        """The vendor's answer to `request`."""
        try:
            return self.answer_call(request)
        except Refused as refused:
            return self.refusal(refused, request)

    def error(self, status: int, reason: str, request: Request, retry_after_s: int | None) -> Answer:
        """An error scripted by a fault; `reason` is the vendor's code."""
        refused = Refused(reason, "by fault", status=status)
        refused.retry_after_s = retry_after_s
        return self.refusal(refused, request)

    def throttled(self, request: Request, retry_after_s: int | None) -> Answer:
        """Too high a rate, in the vendor's way."""
        status, code = self.throttle_code
        return self.error(status, code, request, retry_after_s)

    def shutdown(self, request: Request) -> Answer:
        """The vendor's server error."""
        return self.error(*self.fault_code, request, None)

    def idle(self, request: Request) -> Answer:
        """The same: no document says what a request without an end gets."""
        return self.error(*self.fault_code, request, None)

    def goaway_data(self, reason: str) -> bytes:
        """The bare word."""
        return reason.encode()

    def reset(self) -> None:
        """Rates begin anew; a vendor adds what it has learnt."""
        self._bucket = TokenBucket(*self._rate, self.now)
        self.n_without_message_id = 0

    # ---- what a vendor fills in

    def answer_call(self, request: Request) -> Answer:
        """The answer by the vendor's document. Raises Refused."""
        raise NotImplementedError

    def refusal(self, refused: Refused, request: Request) -> Answer:
        """The vendor's error body."""
        raise NotImplementedError

    def credentials(self, host: str, port: int) -> dict[str, Any]:
        """What a client must know, for the ready line. Called once when the listener is open."""
        raise NotImplementedError

    def callbacks(self, dues: Sequence[Due]) -> Iterable[Callback]:
        """The vendor's reports; see receipts.Shape. A vendor without receipts is never asked."""
        raise NotImplementedError

    def is_receipt_taken(self, status: int, body: bytes) -> bool:
        """Whether the callback's answer is what the vendor wants; any 2xx unless the vendor has its own idea."""
        return 200 <= status < 300

    # ---- for vendor files

    @property
    def now(self) -> float:
        """Unix seconds by the injected clock."""
        return self.kit.clock.now_unix_s()

    @property
    def now_ms(self) -> int:
        """Unix milliseconds by the injected clock."""
        return int(self.now * 1000)

    def pace(self, cost: int) -> None:
        """The rate has room for a request that costs so much. Raises Refused with the vendor's code."""
        if self._bucket.take(self.now, max(1, cost)) > 0:
            status, code = self.throttle_code
            raise Refused(code, f"more than {self._rate[0]:g} a second", status=status)

    def faults_of(self, check: Check, value: Any) -> FieldFault | None:
        """The first fault of a value; unknown fields are counted instead when the configuration says so."""
        for fault in check(value, ""):
            if fault.kind == "variant" or (fault.kind == "unknown" and not self.kit.is_strict):
                self.kit.n_seen[f"{fault.kind} field {fault.path[:80]}"] += 1
                continue
            return fault
        return None

    def rows_of(
        self,
        echoed: str,
        payload: str,
        tokens: Sequence[str],
        title: str,
        body: str,
        *,
        is_single: bool | None = None,
    ) -> tuple[Message, ...]:
        """The rows of a request, to be recorded under what names them.

        echoed: what the sender had echoed in receipts. payload: custom data; a `message_id` in it names the row of a
        request with one target where `echoed` does not. Rows that nothing names are counted.
        is_single: whether `echoed` was given for one target only; told by the number of tokens when left out.
        """
        is_single = len(tokens) == 1 if is_single is None else is_single
        if is_single and message_id_in(echoed) is None:
            data = parsed(payload)
            inner = data.get("message_id") if isinstance(data, dict) else None
            echoed = inner if isinstance(inner, str) and message_id_in(inner) else echoed
        self.n_without_message_id += 0 if echoed else len(tokens)
        return tuple(row_of(echoed, token, title, body, is_single=is_single) for token in tokens)

    def receipts_of(self, token: str, due: Due, event: str | None = None) -> list[Due]:
        """What will be reported of a row: `event`, else what the token's fate says, else the usual course."""
        fate = self.fates.of(token)
        return self.plan.dues(due, event or (self.receipt_fates.get(fate.fate) if fate is not None else None))

    def sync_fate(self, token: str) -> Fate | None:
        """The fate of a token that the vendor knows already when it answers."""
        fate = self.fates.of(token)
        return fate if fate is not None and fate.fate not in self.receipt_fates else None


class DayCaps:
    """Daily limits of an app by class, and of a device by class; a limit of 0 is none. Days are Asia/Shanghai's."""

    def __init__(self, app_limits: Mapping[str, int], device_limits: Mapping[str, int]) -> None:
        self._app_limits = dict(app_limits)
        self._device_limits = dict(device_limits)
        self.reset()

    def reset(self) -> None:
        """Nothing has been used."""
        self._day = -1
        self._used: Counter[str] = Counter()
        self._windows = {name: DeviceWindow(limit, DAY_S) for name, limit in self._device_limits.items()}

    def app_room(self, name: str, now_unix_s: float) -> float:
        """Messages of this class left to the app today; infinite without a limit."""
        self._turn_day(now_unix_s)
        limit = self._app_limits.get(name, 0)
        return limit - self._used[name] if limit else float("inf")

    def use_app(self, name: str, count: int, now_unix_s: float) -> None:
        """`count` messages of this class have gone out."""
        self._turn_day(now_unix_s)
        self._used[name] += count

    def used(self, name: str, now_unix_s: float) -> int:
        """Messages of this class that have gone out today."""
        self._turn_day(now_unix_s)
        return self._used[name]

    def use_device(self, name: str, device: str, now_unix_s: float) -> bool:
        """Whether one more message of this class to this device is within its cap; if so, it has been used."""
        window = self._windows.get(name)
        return window is None or window.take(device, now_unix_s + SHANGHAI_S) <= 0

    def _turn_day(self, now_unix_s: float) -> None:
        day = int((now_unix_s + SHANGHAI_S) // DAY_S)
        if day != self._day:
            self._day = day
            self._used.clear()


def path_of(request: Request) -> str:
    """The path without its query."""
    return request.path.partition("?")[0]


def query_of(request: Request) -> dict[str, str]:
    """The parameters behind the question mark; of a repeated one the last."""
    return dict(parse_qsl(urlsplit(request.path).query, keep_blank_values=True))


def message_id_of_url(url: str) -> str:
    """The parameter `message_id` of a URL that a message opens: what names a row where nothing is echoed."""
    return dict(parse_qsl(url.partition("?")[2].partition("#")[0])).get("message_id", "")


def header_of(request: Request, name: bytes) -> str:
    """The value of a header, the last of several; empty when it is missing."""
    return dict(request.headers).get(name, b"").decode("latin-1")


def media_type_of(request: Request) -> str:
    """The content type without its parameters, lower case."""
    return header_of(request, b"content-type").partition(";")[0].strip().lower()


def form_of(request: Request, code: str, *, charset_code: str | None = None) -> dict[str, str]:
    """The parameters of a form body.

    Raises:
        Refused: `code` for another content type or a repeated parameter, `charset_code` for a body that is no UTF-8.
    """
    if media_type_of(request) != FORM_TYPE:
        raise Refused(code, f"content-type is {media_type_of(request)[:60]!r}, expected {FORM_TYPE}")
    try:
        pairs = parse_qsl(
            request.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(request.body),
            encoding="utf-8",
            errors="strict",
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise Refused(charset_code or code, f"the body is no form: {type(error).__name__}") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Refused(code, "a parameter is repeated")
    return form


def json_of(request: Request, code: str) -> dict[str, Any]:
    """The object in a JSON body.

    Raises:
        Refused: `code` for another content type, or a body that is no object in JSON in UTF-8.
    """
    if media_type_of(request) != "application/json":
        raise Refused(code, f"content-type is {media_type_of(request)[:60]!r}, expected application/json")
    value = parsed(request.body)
    if not isinstance(value, dict):
        raise Refused(code, "the body is not an object in JSON")
    return value


def bytes_without_tokens(request: Request) -> int:
    """The size of a JSON body with its token list, as it was written, left out."""
    found = TOKEN_LIST.search(request.body)
    return request.body_bytes - (found.end() - found.start() if found is not None else 0)


def json_answer(status: int, body: Any, **fields: Any) -> Answer:
    """An answer with a JSON body; fields are those of Answer."""
    return Answer(status, fields.pop("headers", JSON_HEADERS), to_json(body), **fields)


def refused_answer(refused: Refused, body: Any, status: int = 200) -> Answer:
    """The vendor's error body, with `status` unless the refusal has its own."""
    headers = (*JSON_HEADERS, *retry_after(refused))
    return json_answer(refused.status or status, body, headers=headers, reason=refused.code, why=refused.why)


def as_number(code: str) -> int | str:
    """A code as the number that it stands for; words, which only a fault can bring, stay words."""
    return int(code) if re.fullmatch(r"-?[0-9]{1,9}", code) else code


def errcode_answer(refused: Refused, texts: Mapping[str, str], **more: str) -> Answer:
    """A refusal as WeCom's and DingTalk's APIs word it: `errcode`, and `errmsg` with the words for it and why."""
    words = texts.get(refused.code, "error")
    return refused_answer(refused, {"errcode": as_number(refused.code), "errmsg": f"{words}, {refused.why}", **more})


def retry_after(refused: Refused) -> tuple[Header, ...]:
    """The header that a fault may ask for."""
    return () if refused.retry_after_s is None else ((b"retry-after", b"%d" % refused.retry_after_s),)


def new_id(n_digits: int) -> str:
    """A number of so many decimal digits, as vendors give to messages."""
    return str(secrets.randbelow(9 * 10 ** (n_digits - 1)) + 10 ** (n_digits - 1))

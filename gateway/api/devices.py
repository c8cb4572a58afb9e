"""POST /v1/devices: an app gets a device id and the password of its long link, and may register the device with it.

    headers   Pushgw-App, Pushgw-Timestamp, Pushgw-Signature     (core/signed_requests.py)
    body      a JSON object, {} at least; keys below
    answer    201 {"device_id", "user_name", "password", "registered"}, 200 where the id was given
              else {"error", "field", "text", "value", "limit"} with what to mend

The proof is checked before the body is looked at. What is registered goes the way of `register_devices` (whole state);
this file knows neither the device table nor the clock.
Source: docs/device-protocol.md, "Getting an identity"; RFC 6585 section 4 (429), RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Annotated, ClassVar, NamedTuple

import msgspec
from msgspec import Meta

from gateway.columns import TextColumn
from gateway.core.identity import device_password
from gateway.core.signed_requests import Proven, Refused, SignedRequests
from gateway.errors import Overloaded, StoreError, StoreUnavailable
from gateway.form_faults import UNREADABLE, FormFault, form_fault
from gateway.regions import channel_name
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.messages import DevicesRegistered, RegisterDevices, Texts

#: HTTP status of each error code.
STATUSES = {
    "bad_request": 400,
    "bad_credentials": 401,
    "stale_timestamp": 401,
    "repeated": 409,
    "overloaded": 429,
    "unavailable": 503,
    "shutting_down": 503,
}


class DeviceRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body. device_id absent: a new one. With an id and nothing else, only the password is made."""

    device_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None
    channel: Annotated[str, Meta(max_length=64)] = ""
    region: Annotated[str, Meta(max_length=32)] = ""
    token: Annotated[str, Meta(max_length=4096)] = ""
    proven_unix_s: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] = 0
    platform: Annotated[str, Meta(max_length=128)] = ""
    app_version: Annotated[str, Meta(max_length=128)] = ""
    time_zone: Annotated[str, Meta(max_length=128)] = ""
    alias: Annotated[str, Meta(max_length=128)] = ""
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=100)] = []


class Issued(msgspec.Struct, kw_only=True):
    """The answer. registered: whether the device's state was written."""

    device_id: str
    user_name: str
    password: str
    registered: bool


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    error: str
    field: str = ""
    text: str = ""
    value: int | None = None
    limit: int | None = None


class DeviceAnswer(NamedTuple):
    """outcome: for counting, "issued" or the error's code. secret_index: -1 where none was proven."""

    status: int
    body: bytes
    outcome: str
    app_key: str = ""
    secret_index: int = -1
    retry_after_s: int | None = None


#: Fields of the RPC's call that have another name here.
_FIELDS = {"tokens": "token", "vendor": "channel"}
_DECODER = msgspec.json.Decoder(DeviceRequest)
_ENCODE = msgspec.json.encode


class SignedDesk(ABC):
    """Answers requests that prove to be an app's. requests: shared by all desks, so that what was signed for one of
    them is taken once, whichever it is sent to."""

    #: What the body is to be.
    form: ClassVar[type[msgspec.Struct]]

    def __init__(self, requests: SignedRequests, now: Callable[[], float], now_unix_s: Callable[[], float]) -> None:
        self._requests = requests
        self._now = now
        self._now_unix_s = now_unix_s

    @abstractmethod
    async def perform(self, app_key: str, proven: Proven, body: bytes) -> DeviceAnswer:
        """Does what the body asks. Raises BadRequest, Overloaded, StoreError, and `UNREADABLE`."""

    async def answer(self, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> DeviceAnswer:
        """What to say to one request. headers: names in lower case. If cancelled: the device may be registered."""
        given = {name: value.decode("latin-1").strip() for name, value in headers}
        app_key = given.get(b"pushgw-app", "")
        checked = self._requests.check(
            app_key,
            given.get(b"pushgw-timestamp", ""),
            given.get(b"pushgw-signature", ""),
            body,
            now=self._now(),
            now_unix_s=self._now_unix_s(),
        )
        if isinstance(checked, Refused):
            return _refused(checked)
        try:
            return await self.perform(app_key, checked, body)
        except msgspec.ValidationError as error:
            refused = Refused("bad_request", *self._fault_of(body, str(error)))
        except UNREADABLE as error:
            refused = Refused("bad_request", "body", f"not JSON: {error}")
        except BadRequest as error:
            refused = Refused("bad_request", error.field, error.text, error.value, error.limit)
        except StoreUnavailable as error:
            refused = Refused("unavailable", f"{error.limit} store", str(error), retry_after_s=error.retry_after_s)
        except Overloaded as error:
            refused = Refused(
                "overloaded", error.limit, str(error), error.value, error.limit_value, error.retry_after_s
            )
        except StoreError as error:
            refused = Refused("unavailable", "registry store", f"not durable: {error.what}", retry_after_s=1.0)
        return _refused(refused)._replace(app_key=app_key, secret_index=checked.secret_index)

    def _fault_of(self, body: bytes, text: str) -> FormFault:
        # The Struct's decoder stops at the first fault; what stands behind it may be no JSON, or none that anybody
        # reads.
        with suppress(*UNREADABLE):
            found = form_fault(self.form, msgspec.json.decode(body))
            if found is not None:
                return found
        return FormFault("body", text)


class DeviceDesk(SignedDesk):
    """Answers requests for device identities; one object per worker.

    register: writes one device of an app, as the RPC's register_devices does. newest_secret: of an app that is
    configured. new_id: 16 random bytes.
    """

    form = DeviceRequest

    def __init__(
        self,
        *,
        requests: SignedRequests,
        newest_secret: Callable[[str], bytes],
        register: Callable[[str, RegisterDevices], Awaitable[DevicesRegistered]],
        new_id: Callable[[], bytes],
        now: Callable[[], float],
        now_unix_s: Callable[[], float],
    ) -> None:
        super().__init__(requests, now, now_unix_s)
        self._newest_secret = newest_secret
        self._register = register
        self._new_id = new_id

    async def perform(self, app_key: str, proven: Proven, body: bytes) -> DeviceAnswer:
        request = _DECODER.decode(body)
        is_new = request.device_id is None
        device_id = self._new_id() if request.device_id is None else bytes.fromhex(request.device_id)
        is_registered = is_new or request != DeviceRequest(device_id=request.device_id)
        if is_registered:
            done = await self._register(app_key, _registration(device_id, request))
            for refused in done.refused:
                raise BadRequest(_FIELDS.get(refused.field, refused.field), refused.text)
        name = device_id.hex()
        issued = Issued(
            device_id=name,
            user_name=app_key,
            password=device_password(self._newest_secret(app_key), name),
            registered=is_registered,
        )
        return DeviceAnswer(201 if is_new else 200, _ENCODE(issued), "issued", app_key, proven.secret_index)


def too_large(size_bytes: int, limit_bytes: int) -> DeviceAnswer:
    """The answer to a body that is longer than `limit_bytes`; nothing was checked."""
    text = f"body is {size_bytes} bytes or more, limit {limit_bytes} (body_bytes_max)"
    problem = Problem(error="bad_request", field="body", text=text, value=size_bytes, limit=limit_bytes)
    return DeviceAnswer(413, _ENCODE(problem), "too_large")


def _refused(refused: Refused) -> DeviceAnswer:
    problem = Problem(
        error=refused.code, field=refused.field, text=refused.text, value=refused.value, limit=refused.limit
    )
    wait_s = refused.retry_after_s
    # A wait beyond an hour, or without end, tells nobody anything.
    seconds = None if wait_s is None else math.ceil(min(max(wait_s, 1.0), 3600.0))
    return DeviceAnswer(STATUSES[refused.code], _ENCODE(problem), refused.code, retry_after_s=seconds)


def _registration(device_id: bytes, request: DeviceRequest) -> RegisterDevices:
    """The request as a call for one device."""
    if "\n" in "".join(request.tags):
        raise BadRequest("tags", "a tag holds a newline")
    if bool(request.channel) != bool(request.token):
        raise BadRequest("token" if request.channel else "channel", "channel and token come together")
    try:
        channel = channel_name(request.channel, request.region)
    except ValueError as error:
        raise BadRequest("region", str(error)) from error

    def text(value: str) -> Texts | None:
        return _texts(value) if value else None

    return RegisterDevices(
        id=1,
        n=1,
        device_ids=memoryview(device_id),
        channels=[channel] if channel else [],
        channel_index=memoryview(b"\x01") if channel else None,
        tokens=_texts(request.token) if channel else None,
        proven_unix_s=memoryview(request.proven_unix_s.to_bytes(4, "little")) if request.proven_unix_s else None,
        platform=text(request.platform),
        app_version=text(request.app_version),
        time_zone=text(request.time_zone),
        alias=text(request.alias),
        tags=text("\n".join(request.tags)),
    )


def _texts(value: str) -> Texts:
    column = TextColumn.from_texts([value])
    return Texts(blob=bytes(column.blob), offsets=memoryview(column.offsets.astype("<u4").tobytes()))

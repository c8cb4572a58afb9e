"""Payload <-> message. One typed decode when all is well; only a faulty payload is looked at again to name the fault.

Fuzz law: any bytes give a message, a `Faulty` or a `Broken`; nothing else is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, get_args

import msgspec
from msgspec import Meta

from gateway.content import Fault, Variant
from gateway.form_faults import UNREADABLE, form_fault
from gateway.wire.rpc.faults import Code
from gateway.wire.rpc.limits import CONTENTS_MAX
from gateway.wire.rpc.messages import U32_MAX, FromClient, FromServer, Message, Submit


class Faulty(NamedTuple):
    """One map with a kind, but not a message: the request is refused, the connection can go on. id 0: it had none."""

    id: int
    code: Code
    text: str
    field: str = ""


class Broken(NamedTuple):
    """Not one MessagePack map with a kind: the peer does not speak this protocol."""

    text: str


class Mended(NamedTuple):
    """A submit in which some contents could not be read; their rows are refused alone.

    submit.contents holds an empty content in the place of each; faults: position -> what is wrong with it.
    """

    submit: Submit
    faults: Mapping[int, Fault]


class _Envelope(msgspec.Struct):
    kind: str
    id: Any = 0


class _LooseSubmit(Submit, tag="submit", kw_only=True):
    """A submit whose contents are not read yet."""

    contents: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=CONTENTS_MAX)]  # type: ignore[assignment]


_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_server_decoder: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_loose_decoder = msgspec.msgpack.Decoder(_LooseSubmit)
_variant_decoder = msgspec.msgpack.Decoder(Variant)


def _kinds(union: object) -> frozenset[str]:
    return frozenset(str(kind.__struct_config__.tag) for kind in get_args(union))


CLIENT_KINDS = _kinds(FromClient)
SERVER_KINDS = _kinds(FromServer)
_FORMS: dict[str, type[Message]] = {
    str(form.__struct_config__.tag): form for union in (FromClient, FromServer) for form in get_args(union)
}
#: What was refused is read once more, into plain objects, to say why: a request that was written by hand, and no burst.
_LOOKED_AT_BYTES_MAX = 64 << 10
_NO_CONTENT = Variant(title="", body="")


def encode(message: Message) -> bytes:
    """The payload of a message: fields in the order of messages.py, defaults left out."""
    return _encoder.encode(message)


def decode_from_client(payload: bytes) -> FromClient | Mended | Faulty | Broken:
    try:
        return _client_decoder.decode(payload)
    except UNREADABLE as error:
        return _explain(payload, CLIENT_KINDS, str(error))


def decode_from_server(payload: bytes) -> FromServer | Faulty | Broken:
    try:
        return _server_decoder.decode(payload)
    except UNREADABLE as error:
        fault = _explain(payload, SERVER_KINDS, str(error))
        return Broken("a submit from the server") if isinstance(fault, Mended) else fault


def _explain(payload: bytes, kinds: frozenset[str], text: str) -> Mended | Faulty | Broken:
    try:
        envelope = _envelope_decoder.decode(payload)
    except UNREADABLE:
        return Broken("not one MessagePack map with a kind")
    number = envelope.id if type(envelope.id) is int and 0 < envelope.id <= U32_MAX else 0
    if envelope.kind not in kinds:
        return Faulty(number, "unknown_kind", "this kind is not known", "kind")
    if envelope.kind == "submit":
        mended = _mend(payload)
        if mended is not None:
            return mended
    fault = _fault_of(_FORMS[envelope.kind], payload, text, "")
    return Faulty(number, "bad_request", fault.text, fault.field)


def _fault_of(form: type[msgspec.Struct], data: bytes | msgspec.Raw, text: str, whole: str) -> Fault:
    """With value and limit; in msgspec's own words where the data cannot be looked at, or is no fault of its types."""
    if len(data) <= _LOOKED_AT_BYTES_MAX:
        with suppress(*UNREADABLE):
            found = form_fault(form, msgspec.msgpack.decode(data), whole)
            if found is not None:
                return Fault(found.field, found.text)
    return Fault(_field_of(text) or whole, text)


def _field_of(text: str) -> str:
    """The path that msgspec puts at the end of its text, for the answer only: `... - at `$.n`` -> "n"."""
    _, found, path = text.rpartition("`$.")
    return path.rstrip("`") if found else ""


def _mend(payload: bytes) -> Mended | None:
    """The submit with its readable contents, or None when more than contents is wrong."""
    try:
        loose = _loose_decoder.decode(payload)
    except UNREADABLE:
        return None
    contents: list[Variant] = []
    faults: dict[int, Fault] = {}
    for position, raw in enumerate(loose.contents):
        try:
            contents.append(_variant_decoder.decode(raw))
        except UNREADABLE as error:
            contents.append(_NO_CONTENT)
            # A second look at each of many thousands would hold the loop up.
            data = raw if len(payload) <= _LOOKED_AT_BYTES_MAX else b""
            faults[position] = _fault_of(Variant, data, str(error), "contents")
    fields = {name: getattr(loose, name) for name in Submit.__struct_fields__}
    fields["contents"] = contents
    return Mended(Submit(**fields), faults) if faults else None

"""Payload <-> message. One typed decode when all is well; only a faulty payload is looked at again to name the fault.

Fuzz law: any bytes give a message, a `Faulty` or a `Broken`; nothing else is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args

import msgspec
from msgspec import Meta

from gateway.content import Fault, Variant
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


#: All that a msgspec decoder raises for bytes that it cannot read; bad UTF-8 in a str comes as the codec's own error.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

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
    return Faulty(number, "bad_request", text, _field_of(text))


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
            faults[position] = Fault(_field_of(str(error)) or "contents", str(error))
    fields = {name: getattr(loose, name) for name in Submit.__struct_fields__}
    fields["contents"] = contents
    return Mended(Submit(**fields), faults) if faults else None

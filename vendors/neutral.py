"""What the vendors with lists share: their common settings, and the neutral parts that read alike everywhere.

Source: facts/vendors-china.md section 9 and facts/vendors-international.md section 6 (2026-11), the comparisons across
vendors. Pure; what a vendor calls its fields stands in its own file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec

from gateway.columns import Piece, Pieces
from gateway.content import Variant
from gateway.template_values import Tree, form_text, raw_object, scalar_text, scalar_value, text_value
from gateway.vendor import HttpVersion, Names, Refusal, slot_json, slot_text
from gateway.verdict import Answer
from vendors.codes import UNREADABLE
from vendors.connecting import ConnectingSettings
from vendors.http_answer import id_of

#: Huawei, Honor and HarmonyOS show no more on an icon.
BADGE_MAX = 99
TOKEN_CHARACTERS_MAX = 512
#: What a vendor calls a message; longer ones are none of theirs.
OWN_ID_CHARACTERS_MAX = 128
#: The classes that OPPO and vivo share (facts/vendors-china.md sections 2.8 and 3.8).
SYSTEM_CATEGORIES = frozenset({"IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION"})
MARKETING_CATEGORIES = frozenset({"NEWS", "CONTENT", "MARKETING", "SOCIAL"})
CALLBACK_URL_CHARACTERS_MAX = 128


class BulkVendorBase:
    """What a vendor answers that has neither two steps nor signatures."""

    bad_tokens_stall: ClassVar[bool] = False
    is_bulk: ClassVar[bool] = True
    #: Where an answer has the vendor's name for the request: keys of its JSON, dotted where they are nested.
    request_id_keys: ClassVar[tuple[str, ...]] = ()
    keeps_own_ids: ClassVar[bool] = False
    shared_names: ClassVar[Names] = Names.REFUSED
    distinct_names: ClassVar[Names] = Names.REFUSED

    def request_id(self, body: bytes) -> str:
        """The first of `request_id_keys` that the answer has, without what could not stand in a line."""
        return id_of(body, self.request_id_keys) if self.request_id_keys else ""

    def own_ids(self, body: bytes) -> Sequence[str]:
        """See gateway/vendor.py; asked for only where `keeps_own_ids` says so."""
        return ()

    def read_saved(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> str | Answer:
        return UNREADABLE

    def sign(self, fields: Sequence[Pieces], n: int) -> Piece:
        return b""


class BulkSettings(ConnectingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a vendor whose requests carry many rows; each file overrides defaults and says why.

    rows_per_request_max: rows of one content in one request, at most the vendor's own maximum. rate_per_s, burst: rows,
    where the vendor's file does not say that requests are counted. connections_max: over HTTP/1.1 each is a bundle of
    sockets; two of them carry 32 requests at once. categories: a message's category as services write
    it -> the vendor's own class; a category that is one of the vendor's needs no line.
    """

    host: str = ""
    port: int = 443
    ca_file: str = ""
    rate_per_s: float = 5_000.0
    burst: int = 5_000
    connections_max: int = 2
    http_version: HttpVersion = "1.1"
    rows_per_request_max: int = 1000
    categories: dict[str, str] = msgspec.field(default_factory=dict)

    def check(self, *, rows_max: int) -> None:
        """Raises ValueError, whose text says what was expected. Called by each vendor's own check."""
        self.check_connecting()
        if not 0 < self.port < 65_536:
            raise ValueError(f"port is {self.port}, expected 1 to 65535")
        if self.rate_per_s <= 0 or self.burst < 1 or self.connections_max < 1:
            raise ValueError("rate_per_s, burst and connections_max must be positive")
        if not 1 <= self.rows_per_request_max <= rows_max:
            raise ValueError(f"rows_per_request_max is {self.rows_per_request_max}, expected 1 to {rows_max}")


def check_secret(name: str, file: str, env: str) -> None:
    """Raises ValueError unless a secret is named exactly once."""
    if bool(file) == bool(env):
        raise ValueError(f"exactly one of {name}_file and {name}_env must be set")


def check_at_most_one(name: str, file: str, env: str) -> None:
    """Raises ValueError for a secret that is named twice."""
    if file and env:
        raise ValueError(f"at most one of {name}_file and {name}_env may be set")


def check_callback(url: str, characters_max: int = CALLBACK_URL_CHARACTERS_MAX) -> None:
    """Raises ValueError for a callback address that a vendor would not take."""
    if not url:
        return
    if not url.startswith(("https://", "http://")) or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("callback_url is not an http or https URL in ASCII")
    if len(url) > characters_max:
        raise ValueError(f"callback_url is {len(url)} characters, limit {characters_max}")


def check_callback_secret(user: str, file: str, env: str) -> None:
    """Raises ValueError unless user and secret of signed receipts come together, the secret named at most once."""
    check_at_most_one("callback_secret", file, env)
    if bool(user) != bool(file or env):
        raise ValueError("callback_user and one of callback_secret_file and callback_secret_env come together")


def check_identifier(name: str, value: str) -> None:
    """Raises ValueError for an id that could not stand in a path or a form as it is."""
    if not value or not value.isascii() or not all(character.isalnum() or character in "-_." for character in value):
        raise ValueError(f"{name} must be 1 or more of A-Z a-z 0-9 - _ .")


def own_raw(variant: Variant, vendor: str, refused: Iterable[str] = ()) -> Tree | Refusal:
    """The caller's raw object for this vendor, empty when there is none. refused: keys that the gateway sets."""
    raw = raw_object(variant.raw, vendor)
    if isinstance(raw, str):
        return Refusal("raw", raw)
    for key in refused:
        if key in raw:
            return Refusal("raw", f"raw.{vendor} key {key} is the gateway's own")
    return raw


def data_tree(variant: Variant, *, with_variables: bool, as_text: bool = False) -> Tree | Refusal:
    """Custom data: the caller's pairs, `message_id` so that a device can drop a second copy, and what a click brings
    where the vendor has no field for it. as_text: every value as a string."""
    value_of = scalar_text if as_text else scalar_value
    data: Tree = {"message_id": slot_json("message_id")}
    if variant.click is not None and variant.click.type == "payload":
        data["click_payload"] = text_value(variant.click.value, with_variables=with_variables)
    for key, value in (variant.data or {}).items():
        if key in data:
            return Refusal("data", f"data key {key} is taken")
        data[key] = value_of(value, with_variables=with_variables)
    return data


def category_of(variant: Variant, categories: Mapping[str, str], own: frozenset[str]) -> str:
    """The vendor's class of a message: as the configuration maps its category, or the category itself where it is one
    of the vendor's own; "" when neither says."""
    mapped = categories.get(variant.category)
    if mapped is not None:
        return mapped
    upper = variant.category.upper()
    return upper if upper in own else ""


def category_of_class(variant: Variant, categories: Mapping[str, str], vendor: str) -> str | Refusal:
    """`category_of` where the vendor's classes are the common ones and each is for system or for marketing messages."""
    category = category_of(variant, categories, SYSTEM_CATEGORIES | MARKETING_CATEGORIES)
    wrong = SYSTEM_CATEGORIES if variant.class_ == "marketing" else MARKETING_CATEGORIES
    if category in wrong:
        return Refusal("category", f"category {category} does not fit class {variant.class_} ({vendor})")
    return category


def check_list_token(token: str, *, separators: str = ",;", characters_max: int = TOKEN_CHARACTERS_MAX) -> str:
    """An empty string for a token that may stand in a list and in JSON, else what is wrong with it."""
    if not 0 < len(token) <= characters_max:
        return f"token is {len(token)} characters, expected 1 to {characters_max}"
    if not token.isascii() or not token.isprintable() or any(character in token for character in ' "\\'):
        return "token holds a character that no token has"
    for character in separators:
        if character in token:
            return f"token holds {character!r}, which separates tokens"
    return ""


def form_value(value: object) -> bytes:
    """A field of the message as template bytes of a form field: strings lose their quotes, slots and all."""
    encoded = msgspec.json.encode(value)
    if encoded[:1] != b'"':
        return encoded
    if b"\x00" not in encoded and b"\\" not in encoded:
        return encoded[1:-1]
    return _plain(encoded[1:-1])


def _plain(inside: bytes) -> bytes:
    """The inside of a JSON string as it is without JSON: escapes are undone, and slots lose their last step of JSON."""
    out = bytearray()
    for index, part in enumerate(inside.split(b"\x00")):
        if index % 2:
            name = part.decode()
            base, bar, steps = name.partition("|")
            out += slot_text(f"{base}|{steps.removesuffix('j') if bar else ''}")
        else:
            text: str = msgspec.json.decode(b'"' + part + b'"')
            out += form_text(text)
    return bytes(out)

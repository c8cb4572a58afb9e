"""The payload of the long link: the JSON object a device receives (docs/device-protocol.md).

    {"message_id": uuid, "type": "notification", "title": str, "body": str, "data": {...}?, "click": {...}?,
     "image": url?, "badge": int?, "sound": str?, "collapse_id": str?, "category": str?}
    {"message_id": uuid, "type": "transmission", "body": str, "data": {...}?, "collapse_id": str?, "category": str?}
    {"message_id": uuid, "type": "revoke", "collapse_id": str?, "revokes": uuid?}
    {"message_id": uuid, "type": "badge", "badge": int}

Optional keys are absent when empty; of a notification, title and body are always there. The object goes through the
same templates as a vendor's body, and `raw.long_link` is merged over it.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from gateway.content import Variant, revoked_message
from gateway.template_values import Tree, merge_patch, raw_object, scalar_value, text_value
from gateway.vendor import Limits, Refusal, RequestTemplate, parse_template, slot_json

#: MQTT would take 256 MiB; 16 KiB hold four vendor payloads and keep 1,000 unacknowledged rows under 16 MiB.
PAYLOAD_BYTES_MAX_DEFAULT = 16 << 10
#: What the device and the gateway rely on; a raw object may not replace them.
_OWN_KEYS = ("message_id", "type")


class Downlink:
    """Makes the body templates of the long link (`core.compiled.Source`)."""

    name = "long_link"

    def __init__(self, payload_bytes_max: int = PAYLOAD_BYTES_MAX_DEFAULT) -> None:
        self._limits = Limits(payload_bytes_max)

    def limits(self, variant: Variant) -> Limits:
        return self._limits

    def template(self, variant: Variant, *, with_variables: bool = False) -> RequestTemplate | Refusal:
        return downlink_template(variant, with_variables=with_variables)


def downlink_template(variant: Variant, *, with_variables: bool) -> RequestTemplate | Refusal:
    """The payload with slots, as a request without path and headers."""
    raw = raw_object(variant.raw, Downlink.name)
    if isinstance(raw, str):
        return Refusal("raw", raw)
    for key in _OWN_KEYS:
        if key in raw:
            return Refusal("raw", f"raw.{Downlink.name} key {key} is the gateway's own")
    payload: Tree = {"message_id": slot_json("message_id"), "type": variant.action}
    match variant.action:
        case "notification":
            payload["title"], payload["body"] = slot_json("title"), slot_json("body")
            _add_data(payload, variant, with_variables=with_variables)
            _add_looks(payload, variant, with_variables=with_variables)
        case "transmission":
            payload["body"] = slot_json("body")
            _add_data(payload, variant, with_variables=with_variables)
        case "revoke":
            if variant.collapse_id:
                payload["collapse_id"] = slot_json("collapse_id")
            revoked = revoked_message(variant)
            if revoked:
                payload["revokes"] = text_value(revoked, with_variables=with_variables)
        case "badge":
            assert variant.badge is not None
            payload["badge"] = variant.badge
        case _:
            assert_never(variant.action)
    merge_patch(payload, raw)
    return RequestTemplate((), (), parse_template(msgspec.json.encode(payload)))


def _add_data(payload: Tree, variant: Variant, *, with_variables: bool) -> None:
    if variant.data:
        payload["data"] = {
            key: scalar_value(value, with_variables=with_variables) for key, value in variant.data.items()
        }
    if variant.collapse_id:
        payload["collapse_id"] = slot_json("collapse_id")
    if variant.category:
        payload["category"] = variant.category


def _add_looks(payload: Tree, variant: Variant, *, with_variables: bool) -> None:
    """What only something that is shown has."""
    if variant.click is not None:
        click: Tree = {"type": variant.click.type}
        if variant.click.value:
            click["value"] = text_value(variant.click.value, with_variables=with_variables)
        payload["click"] = click
    if variant.image:
        payload["image"] = variant.image
    if variant.badge is not None:
        payload["badge"] = variant.badge
    if variant.sound:
        payload["sound"] = variant.sound

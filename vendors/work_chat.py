"""What WeCom and DingTalk share: cards with a link where a message opens something, else plain text; the same errors.

Source: https://developer.work.weixin.qq.com "send application messages" and https://open.dingtalk.com "work notices"
(2026-11, copies; codes and limits partly from memory: there is no fact sheet). Nothing is echoed by either, so the link
carries the message id in its query.
"""

from __future__ import annotations

import msgspec

from gateway.content import Variant
from gateway.vendor import Refusal, slot_text
from vendors.links import PARAMETER, link
from vendors.neutral import BulkSettings


class WorkChatSettings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """card_url: what a card opens without a click of its own; empty: such a message is plain text. url_parameter: where
    the message id stands in a card's link; empty: nowhere."""

    card_url: str = ""
    url_parameter: str = PARAMETER

    def check_cards(self) -> None:
        """Raises ValueError, whose text says what was expected."""
        if self.card_url and not self.card_url.startswith(("https://", "http://")):
            raise ValueError("card_url is not an http or https URL")
        if self.url_parameter and not self.url_parameter.replace("_", "").isalnum():
            raise ValueError("url_parameter must be letters, digits and _")


def card_link(
    variant: Variant, settings: WorkChatSettings, slot: str, *, with_variables: bool
) -> msgspec.Raw | Refusal | None:
    """The link of a card; None: there is none, and the message is a text."""
    url = settings.card_url
    if variant.click is not None and variant.click.type == "url":
        url = variant.click.value
    elif variant.click is not None and variant.click.type == "intent":
        return Refusal("click", "click intent opens nothing in a work chat: use url")
    return link(url, slot, with_variables=with_variables, parameter=settings.url_parameter) if url else None


#: Title and body in one text.
TEXT = msgspec.Raw(b'"' + slot_text("title") + b"\\n" + slot_text("body") + b'"')

"""What the SMS providers share: signature and templates in the configuration, the room of parameters, no repetition.

Source: facts/vendors-china.md section 7 (2026-11).
"""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

import msgspec

from gateway.content import Variant
from gateway.vendor import FieldLimit, Limits
from vendors.neutral import BulkSettings, BulkVendorBase
from vendors.text_template import TemplateRooms, TextTemplate

#: No limit of a body is known; its parameters are bounded.
_BODY_BYTES_MAX = 1 << 20


class SmsSettings(BulkSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """sign_name: the approved signature. templates: category -> template and parameters, `default` for all others.
    param_code_points_max: of one parameter."""

    sign_name: str = ""
    templates: dict[str, TextTemplate] = msgspec.field(default_factory=dict)
    param_code_points_max: int

    def check_sms(self, *, rows_max: int) -> None:
        """Raises ValueError, whose text says what was expected."""
        self.check(rows_max=rows_max)
        if not 1 <= self.param_code_points_max <= 1000:
            raise ValueError(f"param_code_points_max is {self.param_code_points_max}, expected 1 to 1000")


S = TypeVar("S", bound=SmsSettings)


class SmsBase(BulkVendorBase, Generic[S]):
    """What both providers answer alike."""

    rate_counts_requests: ClassVar[bool] = True
    may_repeat: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        self.settings = settings
        #: As it is signed.
        self._host = settings.host if settings.port == 443 else f"{settings.host}:{settings.port}"
        self._limit = FieldLimit("code_points", settings.param_code_points_max)
        self._rooms = TemplateRooms(settings.templates, lambda _: self._limit)

    def authority(self) -> tuple[str, int]:
        return self.settings.host, self.settings.port

    def limits(self, variant: Variant) -> Limits:
        """Of each parameter."""
        title, body, variables = self._rooms.of(variant)
        return Limits(
            _BODY_BYTES_MAX, title or self._limit, body or self._limit, counts_token=False, variables=variables
        )

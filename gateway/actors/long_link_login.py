"""CONNECT: who it is, what session it goes on with, what it is granted, and what its CONNACK says.

Part of the long-link actor, which owns it; nothing here waits. A connection that is refused is closed by the actor,
when its answer is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gateway.actors.long_link_port import App, LongLinkSettings, Owner
from gateway.actors.long_link_resume import Resumption
from gateway.actors.long_link_sessions import Sessions
from gateway.core.admission import Admission, Rule, classify
from gateway.errors import CloseReason, Overloaded, RemoteProtocolError
from gateway.net.edge import Edge
from gateway.net.edge_table import (
    FLAG_MQTT_5,
    FLAG_QOS_1,
    NO_PACKET_BYTES_MAX,
    TOPIC_ALIAS_MAX,
    ConnectionTable,
    Count,
)
from gateway.wire.mqtt import answers
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.packets import VERSION_5, ConnectCode, ConnectFault, FrameTooLarge, PacketType
from gateway.wire.mqtt.reason_codes import ReasonCode
from gateway.wire.mqtt.session import REFUSAL_TEXTS, SessionState, connect_refusal, connect_refusal_5

#: Instead of a device slot.
_NO_ROOM, _MOVED = -2, -3
#: MQTT 5.0 section 3.1.2.11.2: a Session Expiry Interval that never ends.
_NO_EXPIRY_S = 0xFFFFFFFF
_REFUSAL_REASONS = {
    ConnectCode.IDENTIFIER_REJECTED: CloseReason.BAD_IDENTITY,
    ConnectCode.SERVER_UNAVAILABLE: CloseReason.TOO_MANY_CONNECTIONS,
    ConnectCode.BAD_USER_NAME_OR_PASSWORD: CloseReason.BAD_CREDENTIALS,
    ConnectCode.NOT_AUTHORIZED: CloseReason.BANNED,
}
_RULE_CODES = {
    Rule.UNKNOWN_APP: ConnectCode.BAD_USER_NAME_OR_PASSWORD,
    Rule.WRONG_PASSWORD: ConnectCode.BAD_USER_NAME_OR_PASSWORD,
    Rule.BANNED_ADDRESS: ConnectCode.NOT_AUTHORIZED,
    Rule.BANNED_DEVICE: ConnectCode.NOT_AUTHORIZED,
    # It will pass: a phone behind the same shared address comes back later.
    Rule.LOGIN_BACKOFF: ConnectCode.SERVER_UNAVAILABLE,
}
_UNSUPPORTED_VERSION = frozenset(
    {int(ConnectCode.UNACCEPTABLE_PROTOCOL_VERSION), int(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION)}
)
_BACKOFF = "too many wrong passwords from this address: come back later"


class Logins:
    """Shares its parts with the actor. take_closed: what a takeover has just ended is dealt with."""

    def __init__(
        self,
        settings: LongLinkSettings,
        apps: Mapping[str, App],
        table: ConnectionTable,
        edge: Edge,
        admission: Admission,
        owner: Owner,
        sessions: Sessions,
        resumption: Resumption,
        take_closed: Callable[[float], None],
    ) -> None:
        self._settings = settings
        self._apps = apps
        self._table = table
        self._edge = edge
        self._admission = admission
        self._owner = owner
        self._sessions = sessions
        self._resumption = resumption
        self._take_closed = take_closed
        self.connacks = np.zeros(256, np.uint64)
        """(256,) by the byte sent: ConnectCode, or ReasonCode from 0x80 on."""

    def _count(self, counter: Count, by: int = 1) -> None:
        self._table.count_at[counter] += by

    def connack(self, code: int, packet: bytes, replies: bytearray) -> None:
        self.connacks[code] += 1
        self._sessions.reply(replies, PacketType.CONNACK, packet)

    def log_in(self, fd: int, connect: mqtt.Connect, replies: bytearray, now: float) -> CloseReason | None:
        """The connection becomes a session, an older one of the same device ends; or why it is to be closed."""
        is_5 = connect.version == VERSION_5
        refusal = connect_refusal_5(connect)
        if refusal is not None:
            self.connack(refusal, answers.refusal_5(connect, refusal, REFUSAL_TEXTS[refusal]), replies)
            return CloseReason.UNSUPPORTED_FEATURE
        code, slot, app_index, why = self._identify(fd, connect, now)
        if code is not ConnectCode.ACCEPTED:
            return self._turn_away(connect, code, slot, why, replies)
        settings = self._settings
        keepalive_s = min(connect.keepalive_s or settings.keepalive_s_max, settings.keepalive_s_max)
        # 3.1.1 has no word for an end: what is not a clean session stays as long as any may.
        asked_s = (connect.properties.session_expiry_interval_s or 0) if is_5 else _NO_EXPIRY_S
        if not is_5 and connect.clean_session:
            asked_s = 0
        expiry_s = min(asked_s, settings.session_expiry_s_max) if settings.sessions_max else 0
        device_id = bytes.fromhex(connect.client_id)
        older = self._table.slots.find(slot)
        if older >= 0:
            self._edge.close(older, CloseReason.TAKEN_OVER)
            self._take_closed(now)
        kept = self._resumption.find(slot, device_id, now, is_clean_start=connect.clean_session)
        offer = answers.offer(
            connect,
            keepalive_s=keepalive_s,
            receive_maximum=settings.qos_2_unreleased_max,
            packet_bytes_max=settings.packet_bytes_max,
            session_expiry_s=expiry_s,
            topic_alias_max=TOPIC_ALIAS_MAX,
        )
        packet = answers.connack(connect.version, code, offer, is_session_present=kept is not None)
        self.connack(code, packet, replies)
        self._table.log_in(fd, slot, app_index, device_id, keepalive_s, now, session_expiry_s=expiry_s)
        self._table.address_class[fd] = classify(self._edge.address_of(fd))
        if is_5:
            asked = connect.properties
            self._table.log_in_5(
                fd,
                min(asked.receive_maximum or 65_535, settings.in_flight_per_device_max),
                asked.maximum_packet_size_bytes or NO_PACKET_BYTES_MAX,
                may_keep_session=bool(asked.session_expiry_interval_s),
                takes_alias=bool(asked.topic_alias_maximum),
            )
        if kept is not None:
            self._table.flags_at[fd] |= kept
            self._resumption.on_resumed(slot, fd)
            if kept & FLAG_QOS_1:
                self._sessions.subscribed.append((fd, self._table.generation_at[fd]))
        self._edge.end_handshake(fd)
        self._count(Count.LOGINS)
        return None

    def answer_fault(self, fd: int, error: RemoteProtocolError, replies: bytearray) -> CloseReason:
        """Says what was wrong where the client's version has words for it; why it is to be closed."""
        is_large = isinstance(error, FrameTooLarge)
        reason = CloseReason.FRAME_TOO_LARGE if is_large else CloseReason.PROTOCOL_ERROR
        if self._table.state_at[fd] == SessionState.HANDSHAKING:
            if error.wire_code in _UNSUPPORTED_VERSION:
                reason = CloseReason.UNSUPPORTED_VERSION
            if isinstance(error, ConnectFault):
                self.connack(error.wire_code, answers.connack_5(ReasonCode(error.wire_code)), replies)
            elif error.wire_code == ConnectCode.UNACCEPTABLE_PROTOCOL_VERSION:
                self.connack(error.wire_code, mqtt.encode_connack(ConnectCode(error.wire_code)), replies)
        elif self._table.flags_at[fd] & FLAG_MQTT_5:
            code = ReasonCode.PACKET_TOO_LARGE if is_large else ReasonCode.MALFORMED_PACKET
            if error.wire_code >= ReasonCode.UNSPECIFIED_ERROR:
                code = ReasonCode(error.wire_code)
            packet = answers.disconnect(code, str(error), self._table.packet_bytes_max_at[fd])
            self._sessions.reply(replies, PacketType.DISCONNECT, packet)
        return reason

    def _turn_away(
        self, connect: mqtt.Connect, code: ConnectCode, slot: int, why: str, replies: bytearray
    ) -> CloseReason:
        """A CONNECT that is not accepted is told why, and of 5.0 where else to go, if there is such a place."""
        reference = self._settings.server_reference
        if connect.version != VERSION_5:
            self.connack(code, answers.connack(connect.version, code), replies)
        elif slot in (_NO_ROOM, _MOVED) and reference:
            said = ReasonCode.SERVER_MOVED if slot == _MOVED else ReasonCode.USE_ANOTHER_SERVER
            self._count(Count.REDIRECTED)
            self.connack(said, answers.refusal_5(connect, said, why, reference), replies)
            return CloseReason.REDIRECTED
        else:
            sent = answers.CONNECT_REASONS[code]
            self.connack(sent, answers.refusal_5(connect, sent, why or REFUSAL_TEXTS.get(sent, "")), replies)
        return _REFUSAL_REASONS[code]

    def _identify(self, fd: int, connect: mqtt.Connect, now: float) -> tuple[ConnectCode, int, int, str]:
        """(return code, device slot, app index, why not where the code does not say it); slot and app hold for ACCEPTED
        only. Slot _NO_ROOM, _MOVED: another server may take the device."""
        refusal = connect_refusal(connect)
        if refusal is not None:
            return refusal, -1, 0, ""
        assert connect.user_name is not None
        assert connect.password is not None
        address = self._edge.address_of(fd)
        rule = self._admission.check_login(connect.user_name, connect.client_id, connect.password, address, now)
        if rule is not None:
            return _RULE_CODES[rule], -1, 0, _BACKOFF if rule is Rule.LOGIN_BACKOFF else ""
        if self._settings.is_moved:
            return ConnectCode.SERVER_UNAVAILABLE, _MOVED, 0, REFUSAL_TEXTS[ReasonCode.SERVER_MOVED]
        app = self._apps[connect.user_name]
        device_id = bytes.fromhex(connect.client_id)
        try:
            slot = self._owner.connect(app.index, device_id, fd, self._table.generation_at[fd], now)
        except Overloaded as error:
            return ConnectCode.SERVER_UNAVAILABLE, _NO_ROOM, 0, f"{error.limit} is reached: come back later"
        return (ConnectCode.ACCEPTED if slot >= 0 else ConnectCode.NOT_AUTHORIZED), slot, app.index, ""

    def connacks_by_name(self) -> dict[str, int]:
        """Codes of 3.1.1, and those of 5.0 that came; of one name, both together."""
        found = {code.name.lower(): int(self.connacks[code]) for code in ConnectCode}
        for code in ReasonCode:
            if code >= ReasonCode.UNSPECIFIED_ERROR and self.connacks[code]:
                name = code.name.lower()
                found[name] = found.get(name, 0) + int(self.connacks[code])
        return found

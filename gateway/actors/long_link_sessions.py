"""What a connected device asks for with SUBSCRIBE, UNSUBSCRIBE, PUBLISH and PUBREL, and what it is answered in its
version. Part of the long-link actor, which owns it; nothing here waits or closes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.actors.long_link_acks import OWED_MAX, OwedAck, OwedAcks
from gateway.actors.long_link_exchanges import Exchanges
from gateway.actors.long_link_port import LongLinkSettings, Owner, UplinkAnswer
from gateway.core.uplink import event_of_number, number_of_event
from gateway.errors import Overloaded, RemoteProtocolError
from gateway.net.edge_table import (
    FLAG_MQTT_5,
    FLAG_QOS_1,
    FLAG_SUBSCRIBED,
    TOPIC_ALIAS_MAX,
    ConnectionTable,
    Count,
)
from gateway.wire.mqtt import answers
from gateway.wire.mqtt import packets as mqtt
from gateway.wire.mqtt.packet_types import VERSION_3_1_1, VERSION_5, PacketType
from gateway.wire.mqtt.reason_codes import ReasonCode
from gateway.wire.mqtt.session import downlink_topic, grant, uplink_event


class Sessions:
    """Shares table and owner with the actor; answers are appended to the caller's `replies`."""

    def __init__(
        self, settings: LongLinkSettings, table: ConnectionTable, owner: Owner, write: Callable[[int, bytes], None]
    ) -> None:
        """write: to a connection, between steps of the actor."""
        self._settings = settings
        self._table = table
        self._owner = owner
        self.exchanges = Exchanges(settings.exchanges_parked_max)
        self.packets_out = np.zeros(16, np.uint64)
        """(16,) packets by PacketType, less PUBLISH, counted by the downlink, and the edge's farewells."""
        self.owed = OwedAcks(table, write, self._count_out)
        self.subscribed: list[tuple[int, int]] = []
        """(fd, generation) that were granted QoS 1 in this step; emptied by the actor at its end."""

    def _count(self, counter: Count, by: int = 1) -> None:
        self._table.count_at[counter] += by

    def _count_out(self, kind: PacketType) -> None:
        self.packets_out[kind] += 1

    def version(self, fd: int) -> int:
        return VERSION_5 if self._table.flags_at[fd] & FLAG_MQTT_5 else VERSION_3_1_1

    def reply(self, replies: bytearray, kind: PacketType, packet: bytes) -> None:
        self.packets_out[kind] += 1
        replies += packet

    def _reply_if_it_fits(self, fd: int, replies: bytearray, kind: PacketType, packet: bytes) -> None:
        """An answer longer than the client's Maximum Packet Size is not sent [MQTT-3.1.2-24, -25]."""
        if not self._table.flags_at[fd] & FLAG_MQTT_5 or len(packet) <= self._table.packet_bytes_max_at[fd]:
            self.reply(replies, kind, packet)

    def grant(self, fd: int, subscribe: mqtt.Subscribe, replies: bytearray) -> None:
        codes, granted = grant(subscribe, self._table.device_id_of(fd).hex())
        if granted is not None:
            flags = self._table.flags_at[fd] & ~(FLAG_SUBSCRIBED | FLAG_QOS_1) & 0xFF
            self._table.flags_at[fd] = flags | FLAG_SUBSCRIBED | (FLAG_QOS_1 if granted else 0)
            if granted:
                self.subscribed.append((fd, self._table.generation_at[fd]))
        n_refused = codes.count(mqtt.SUBSCRIPTION_REFUSED)
        self._count(Count.SUBSCRIPTIONS_REFUSED, n_refused)
        self._count(Count.SUBSCRIPTIONS_GRANTED, len(codes) - n_refused)
        suback = answers.suback(self.version(fd), subscribe.packet_id, codes)
        self._reply_if_it_fits(fd, replies, PacketType.SUBACK, suback)

    def withdraw(self, fd: int, unsubscribe: mqtt.Unsubscribe, replies: bytearray) -> None:
        own = downlink_topic(self._table.device_id_of(fd).hex())
        had_subscription = []
        for topic_filter in unsubscribe.filters:
            had_subscription.append(topic_filter == own and bool(self._table.flags_at[fd] & FLAG_SUBSCRIBED))
            if had_subscription[-1]:
                self._table.flags_at[fd] &= ~(FLAG_SUBSCRIBED | FLAG_QOS_1) & 0xFF
        unsuback = answers.unsuback(self.version(fd), unsubscribe.packet_id, had_subscription)
        self._reply_if_it_fits(fd, replies, PacketType.UNSUBACK, unsuback)

    def take_uplink(self, fd: int, publish: mqtt.Publish, replies: bytearray) -> None:
        """Hands the message to the owner, a QoS 2 one once (method B of section 4.3.3), and acknowledges it."""
        device_id = self._table.device_id_of(fd)
        event = self._event(fd, publish, device_id)
        if event is None:
            self._count(Count.UPLINK_TOPIC_REFUSED)
            if publish.qos and self.version(fd) == VERSION_5:
                self._refuse_uplink(fd, publish, ReasonCode.TOPIC_NAME_INVALID, replies)
                return
            text = "PUBLISH to a topic that is not this device's"  # 3.1.1: [MQTT-3.3.5-2]
            raise RemoteProtocolError(text, wire_code=ReasonCode.TOPIC_NAME_INVALID)
        if publish.qos != 2 or not self.exchanges.has(fd, publish.packet_id):
            n_open = self.exchanges.count(fd) if publish.qos else 0
            if n_open >= self._settings.qos_2_unreleased_max and (publish.qos == 2 or self.version(fd) == VERSION_5):
                text = f"{n_open} QoS 2 messages without PUBREL, limit {self._settings.qos_2_unreleased_max}"
                raise RemoteProtocolError(text, wire_code=ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
            ack = self.owed.open(fd)
            try:
                if publish.qos and self.owed.is_full(fd):
                    raise Overloaded("acknowledgements owed", len(self.owed), OWED_MAX)
                slot, later = self._table.slot_at[fd], ack.resolve if publish.qos else None
                answer = self._owner.uplink(slot, device_id, event, publish.payload, later)
            except Overloaded:
                self._count(Count.UPLINK_OVERLOADED)
                if self.version(fd) == VERSION_5:
                    self._refuse_uplink(fd, publish, ReasonCode.QUOTA_EXCEEDED, replies)
                return
            self._count(Count.UPLINK)
            if answer is UplinkAnswer.MALFORMED and self.version(fd) == VERSION_5:
                self._refuse_uplink(fd, publish, ReasonCode.PAYLOAD_FORMAT_INVALID, replies)
                return
            is_later = answer is UplinkAnswer.LATER
            first = None
        else:
            if self.owed.is_full(fd):
                self._count(Count.UPLINK_OVERLOADED)
                return
            ack, first = self.owed.open(fd), self.exchanges.waiting(fd, publish.packet_id)
            is_later = first is not None
        if publish.qos == 1:
            ack.packet = mqtt.encode_puback(publish.packet_id)
        elif publish.qos == 2:
            if first is None:
                self.exchanges.begin(fd, publish.packet_id, ack if is_later else None)
            else:
                # A copy, before anybody knows whether the message is kept.
                first.repeat(ack)
            ack.kind, ack.packet = PacketType.PUBREC, mqtt.encode_pubrec(publish.packet_id)
        if is_later and self.version(fd) == VERSION_5:
            ack.refusal = _refusal(publish, ReasonCode.QUOTA_EXCEEDED)
        self._acknowledge(fd, ack, replies, is_later=is_later)

    def _acknowledge(self, fd: int, ack: OwedAck, replies: bytearray, *, is_later: bool) -> None:
        """It is said in the order of the device's messages. Of QoS 0 there is nothing to say."""
        if ack.packet and not self.owed.say(fd, ack, is_later=is_later):
            self.reply(replies, ack.kind, ack.packet)

    def _event(self, fd: int, publish: mqtt.Publish, device_id: bytes) -> str | None:
        """The event that the topic or its alias names; None where it is not one of this device. Raises:
        RemoteProtocolError for an alias that is none.

        An alias is kept as the number of its event, so that it costs two bytes of a column and no object.
        """
        alias = publish.properties.topic_alias
        if alias is None:
            return uplink_event(publish.topic, device_id.hex())
        if alias > TOPIC_ALIAS_MAX:  # [MQTT-3.3.2-9]
            text = f"topic alias is {alias}, maximum {TOPIC_ALIAS_MAX}"
            raise RemoteProtocolError(text, wire_code=ReasonCode.TOPIC_ALIAS_INVALID)
        if publish.topic:
            event = uplink_event(publish.topic, device_id.hex())
            self._table.aliases[fd, alias - 1] = number_of_event(event)
            return event
        number = int(self._table.aliases[fd, alias - 1])
        if not number:  # section 3.3.2.3.4
            raise RemoteProtocolError(f"topic alias {alias} was never set", wire_code=ReasonCode.PROTOCOL_ERROR)
        return event_of_number(number)

    def complete_uplink(self, fd: int, packet_id: int, replies: bytearray) -> None:
        is_known = self.exchanges.end(fd, packet_id)
        self.reply(replies, PacketType.PUBCOMP, answers.pubcomp(self.version(fd), packet_id, is_known=is_known))

    def _refuse_uplink(self, fd: int, publish: mqtt.Publish, code: ReasonCode, replies: bytearray) -> None:
        """MQTT 5.0: the exchange ends with a reason, the connection goes on. QoS 0 has no answer."""
        ack = self.owed.open(fd)
        ack.kind, ack.packet = (PacketType.PUBREC if publish.qos == 2 else PacketType.PUBACK), _refusal(publish, code)
        self._acknowledge(fd, ack, replies, is_later=False)


def _refusal(publish: mqtt.Publish, code: ReasonCode) -> bytes:
    if publish.qos == 1:
        return answers.puback_refused(publish.packet_id, code)
    return answers.pubrec_refused(publish.packet_id, code) if publish.qos == 2 else b""

"""What a client of MQTT 5.0 reads when its CONNECT is refused; the long link over real sockets."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from gateway.actors.long_link import LongLink
from gateway.actors.long_link_port import LongLinkSettings
from gateway.core.admission import Admission, AppBans, Bans
from gateway.core.identity import device_password
from gateway.errors import Overloaded
from gateway.net.edge_settings import EdgeSettings, ListenerSettings
from gateway.wire.mqtt.properties import NO_PROPERTIES, Carrier, Properties, encode_properties, read_properties
from gateway.wire.mqtt.reason_codes import ReasonCode

SECRET = b"app secret"
ID, BANNED, CROWDED = (bytes([number]) * 16 for number in (1, 2, 3))
NOW = 100.0
CREDENTIAL = "user name, password and client identifier do not go together"


class App(NamedTuple):
    index: int = 0
    secrets: tuple[bytes, ...] = (SECRET,)


class Owner:
    def connect(self, app_index: int, device_id: bytes, fd: int, generation: int, now: float) -> int:
        if device_id == CROWDED:
            raise Overloaded("apps.connections_max", 5, 5)
        return 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *columns: None


@pytest.fixture
def make_link() -> Iterator[Callable[..., LongLink]]:
    links: list[LongLink] = []

    def make(**settings: Any) -> LongLink:
        apps = {"app": App()}
        admission = Admission(apps)
        admission.replace_bans(Bans(apps={"app": AppBans(devices=frozenset([BANNED]))}))
        configured = LongLinkSettings(edge=EdgeSettings(listeners=(ListenerSettings(port=0),)), **settings)
        link = LongLink(configured, apps, Owner(), admission=admission, clock=lambda: NOW)  # type: ignore[arg-type]
        links.append(link)
        return link

    yield make
    for link in links:
        link.dispose()


def field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def connect(name: bytes, user: bytes | None, password: bytes | None, said: Properties) -> bytes:
    flags = 2 | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    body = field(b"MQTT") + bytes([5, flags, 0, 60]) + encode_properties(said) + field(name)
    body += b"".join(field(part) for part in (user, password) if part is not None)
    return b"\x10" + (bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])) + body


def refusal(link: LongLink, address: tuple[str, int], packet: bytes) -> tuple[ReasonCode, Properties]:
    """Code and properties of the CONNACK that the packet gets."""
    with socket.create_connection(address) as peer:
        peer.setblocking(False)
        peer.sendall(packet)
        data = b""
        for _ in range(1000):
            select.select([link.edge.fileno(), peer], [], [], 0.01)
            link.step(NOW)
            try:
                chunk = peer.recv(4096)
            except BlockingIOError:
                continue
            if not chunk:
                break
            data += chunk
    assert data[0] == 0x20
    at = 2 if data[1] < 128 else 3
    assert len(data) == at + data[1] + (128 * (data[2] - 1) if at == 3 else 0)
    assert data[at] == 0
    properties, end = read_properties(data, at + 2, Carrier.CONNACK)
    assert end == len(data)
    return ReasonCode(data[at + 1]), properties


def test_refused_device_reads_what_to_mend_and_not_which_part_of_its_credential_is_wrong(
    make_link: Callable[..., LongLink],
) -> None:
    def told(name: bytes, user: bytes | None, password: bytes | None, said: Properties = NO_PROPERTIES) -> Any:
        link = make_link()
        code, properties = refusal(link, link.listen()[0], connect(name, user, password, said))
        assert properties == Properties(reason_string=properties.reason_string)
        return code, properties.reason_string

    def good(device_id: bytes) -> tuple[bytes, bytes, bytes]:
        name = device_id.hex()
        return name.encode(), b"app", device_password(SECRET, name).encode()

    name, user, password = good(ID)
    wrong = (ReasonCode.BAD_USER_NAME_OR_PASSWORD, CREDENTIAL)
    assert told(name, b"other", password) == wrong
    assert told(name, user, b"x" * 43) == wrong
    assert told(name, user, good(BANNED)[2]) == wrong
    assert told(name, user, None) == wrong
    assert told(name, None, None) == wrong
    # Who cannot prove to be a device does not learn that it is banned.
    assert told(good(BANNED)[0], user, password) == wrong
    assert told(*good(BANNED)) == (ReasonCode.BANNED, "device or network is banned by the operator")
    assert told(*good(CROWDED)) == (ReasonCode.SERVER_BUSY, "apps.connections_max is reached: come back later")
    identifier = "client identifier is not a device id, 32 lower-case hex digits"
    assert told(b"short", user, password) == (ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, identifier)
    method = Properties(authentication_method="SCRAM-SHA-1")
    expected = (ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")
    assert told(name, user, password, method) == expected
    small = "maximum packet size is below 64"
    for size, text in ((63, small), (39, small), (38, None)):
        said = Properties(maximum_packet_size_bytes=size)
        assert told(name, user, password, said) == (ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, text)
    quiet = Properties(request_problem_information=0)
    assert told(name, user, b"x" * 43, quiet) == (ReasonCode.BAD_USER_NAME_OR_PASSWORD, None)


def test_redirected_device_reads_where_to_go_and_why(make_link: Callable[..., LongLink]) -> None:
    name, password = CROWDED.hex(), device_password(SECRET, CROWDED.hex()).encode()
    packet = connect(name.encode(), b"app", password, Properties())
    link = make_link(server_reference="b.example")
    code, said = refusal(link, link.listen()[0], packet)
    assert (code, said.server_reference) == (ReasonCode.USE_ANOTHER_SERVER, "b.example")
    assert said.reason_string == "apps.connections_max is reached: come back later"
    link = make_link(server_reference="b.example", is_moved=True)
    code, said = refusal(link, link.listen()[0], packet)
    assert (code, said.server_reference) == (ReasonCode.SERVER_MOVED, "b.example")
    assert said.reason_string == "this server takes no more devices"

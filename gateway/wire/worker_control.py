"""The control socket between the supervisor and one worker: every message, and how it is framed. Sans-IO.

    supervisor                                              worker
      start --------------------------------------------->          who it is; the first frame of every connection
      <-------------------------------------------- linked          its socket for other workers is open
      peer_linked ---------------------------------------->         so is that worker's; it takes no rows yet
      met ------------------------------------------------>         these were all; who was not linked then
      <--------------------------------------------- ready          its listeners are open
      peer_up, peer_died, peer_draining ------------------>         the other workers, in the order in which it happened
      whole ---------------------------------------------->         why the gateway takes no work; empty: it does
      ping -> <- pong                                               all that was sent before is read; a sign of life
      refresh -> <- refreshed                                       gauges are set for a scrape
      <------------------------------------- ask_refresh            a scrape has come: everybody's gauges, please
      all_refreshed -------------------------------------->
      stop ----------------------------------------------->         drain and end
      restart -------------------------------------------->         drain and end, unless rows would be lost:
      <---------------------------------------------- kept          then it goes on as before
      <---------------------------------------------- over          or has drained, and its process is about to end

A frame is a 4-byte big-endian length and one MessagePack map with its `kind`. Both ends are the same program of the
same version, so an unknown kind or field is a bug of ours, and the end of the connection. The end of the connection is
the end of the worker: whoever supervised it is gone.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gateway.errors import RemoteProtocolError

HEADER_BYTES = 4
#: `start` carries the configuration's text; everything else is some tens of bytes.
FRAME_BYTES_MAX = 16 << 20


class BadControlFrame(RemoteProtocolError):
    """The other end of the control socket is not of this version, or not ours at all."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of all messages."""


class Start(Message, frozen=True, kw_only=True, tag="start"):
    """Which worker this process is, and what it needs that only the supervisor knows.

    config_text: the file as the supervisor read it, so that all workers of all incarnations have one configuration.
    rpc, long_link, http, receipts: addresses in the order of the configuration, with the ports that the supervisor
    reserved.
    unix_listeners: path -> inherited descriptor of the listening socket that all workers accept from.
    metric_files: inherited descriptors, one of each worker and the supervisor's last.
    living: worker and incarnation of those whose sockets for other workers are open.
    """

    worker: int
    workers: int
    incarnation: int
    run_folder: str
    config_file: str
    config_text: bytes
    rpc: list[str]
    long_link: list[str]
    http: str
    unix_listeners: dict[str, int]
    metric_files: list[int]
    clock_offset_s: float
    receipts: list[str] = []
    living: list[tuple[int, int]] = []


class PeerLinked(Message, frozen=True, kw_only=True, tag="peer_linked"):
    """That worker's socket for other workers is open; it is not ready."""

    worker: int
    incarnation: int


class Met(Message, frozen=True, kw_only=True, tag="met"):
    """Whoever was linked when this worker was has been named. down: worker and last ended incarnation of the others."""

    down: list[tuple[int, int]]


class PeerUp(Message, frozen=True, kw_only=True, tag="peer_up"):
    """That worker is ready; its sockets in the run folder are open."""

    worker: int
    incarnation: int


class PeerDied(Message, frozen=True, kw_only=True, tag="peer_died"):
    """That incarnation will never say anything again."""

    worker: int
    incarnation: int


class PeerDraining(Message, frozen=True, kw_only=True, tag="peer_draining"):
    """That incarnation is about to end and wants no new rows; is_over: it goes on after all."""

    worker: int
    incarnation: int
    is_over: bool


class Whole(Message, frozen=True, kw_only=True, tag="whole"):
    """Why no work should come to the gateway; empty: all workers are ready."""

    not_ready: list[str]


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """round: 0 where nobody waits for the answer, which is a sign of life."""

    round: int


class Refresh(Message, frozen=True, kw_only=True, tag="refresh"):
    round: int


class AllRefreshed(Message, frozen=True, kw_only=True, tag="all_refreshed"):
    """The answer to `ask_refresh`: every worker that could has set its gauges."""

    round: int


class Stop(Message, frozen=True, kw_only=True, tag="stop"):
    """Drain within the configured time and end."""


class Restart(Message, frozen=True, kw_only=True, tag="restart"):
    """Drain and end; devices are closed evenly over `spread_s`. may_lose: end with rows in memory, too."""

    spread_s: float
    may_lose: bool


class Linked(Message, frozen=True, kw_only=True, tag="linked"):
    """The worker's socket for other workers is open."""


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """The worker's listeners are open."""


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to `ping`, at once: everything that came before it has been read."""

    round: int


class Refreshed(Message, frozen=True, kw_only=True, tag="refreshed"):
    round: int


class AskRefresh(Message, frozen=True, kw_only=True, tag="ask_refresh"):
    """round: the asker's own number, to find its answer."""

    round: int


class Kept(Message, frozen=True, kw_only=True, tag="kept"):
    """The worker did not end for `restart` and serves again. rows_open: rows that would have been lost, by state."""

    rows_open: dict[str, int]


class Over(Message, frozen=True, kw_only=True, tag="over"):
    """The worker has drained for `restart` and says nothing more to anybody; its process ends."""


ToWorker: TypeAlias = (
    Start | PeerLinked | Met | PeerUp | PeerDied | PeerDraining | Whole | Ping | Refresh | AllRefreshed | Stop | Restart
)
ToSupervisor: TypeAlias = Linked | Ready | Pong | Refreshed | AskRefresh | Kept | Over

_ENCODER = msgspec.msgpack.Encoder()
_TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_TO_SUPERVISOR: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


def encode(message: Message) -> bytes:
    """The message as one frame."""
    payload = _ENCODER.encode(message)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


class _Frames:
    """Cuts a stream into payloads. A connection that has sent half a frame holds what has come of it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def cut(self, data: bytes) -> list[bytes]:
        self._data += data
        found: list[bytes] = []
        at = 0
        while len(self._data) - at >= HEADER_BYTES:
            size = int.from_bytes(self._data[at : at + HEADER_BYTES], "big")
            if size > FRAME_BYTES_MAX:
                raise BadControlFrame(f"control frame is {size} bytes, limit {FRAME_BYTES_MAX}")
            if len(self._data) - at < HEADER_BYTES + size:
                break
            found.append(bytes(self._data[at + HEADER_BYTES : at + HEADER_BYTES + size]))
            at += HEADER_BYTES + size
        del self._data[:at]
        return found


class WorkerEnd:
    """The worker's half: what the supervisor says."""

    def __init__(self) -> None:
        self._frames = _Frames()

    def receive_data(self, data: bytes) -> list[ToWorker]:
        """The messages that are complete now. Raises: BadControlFrame."""
        try:
            return [_TO_WORKER.decode(payload) for payload in self._frames.cut(data)]
        except msgspec.MsgspecError as error:
            raise BadControlFrame(str(error)) from error


class SupervisorEnd:
    """The supervisor's half: what one worker says."""

    def __init__(self) -> None:
        self._frames = _Frames()

    def receive_data(self, data: bytes) -> list[ToSupervisor]:
        """The messages that are complete now. Raises: BadControlFrame."""
        try:
            return [_TO_SUPERVISOR.decode(payload) for payload in self._frames.cut(data)]
        except msgspec.MsgspecError as error:
            raise BadControlFrame(str(error)) from error

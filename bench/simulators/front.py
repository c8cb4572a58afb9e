"""The TLS listener of one simulator: picks the protocol by ALPN, keeps the connections, carries the faults' modes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from bench.simulators.config import SimulatorsConfig
from bench.simulators.exchange import Answer, Exchange, Request
from bench.simulators.fault_kinds import Goaway, Malformed, NoAnswer, RefusedStream, ResetSocket, ResetStream, TlsAbort
from bench.simulators.faults import Mode
from bench.simulators.h2_rules import Http2Rules
from bench.simulators.h2_server import Http2Connection
from bench.simulators.http1 import Hangup, Reply, serve_http1
from bench.simulators.sockets import Severed, end_without_notify, reset
from bench.simulators.tls import TlsFiles, server_context, topics_of


class Front:
    """Listener and connections of one simulator; the loop's thread is its only user."""

    def __init__(
        self,
        exchange: Exchange,
        rules: Http2Rules,
        tls_files: TlsFiles,
        alpn: list[str],
        config: SimulatorsConfig,
        *,
        clients: str = "no",
    ) -> None:
        self._exchange = exchange
        self._rules = rules
        self._connections_max = config.connections_max
        self._handshake_timeout_s = config.handshake_timeout_s
        self._context = server_context(tls_files, alpn, self._on_client_hello, clients)
        self._connections: set[Http2Connection] = set()
        self._http1: set[asyncio.Task[None]] = set()
        self._severed: list[Severed] = []
        self._is_empty = asyncio.Event()
        self._mode = Mode()
        self._mode_timer: asyncio.TimerHandle | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """The listener is open on `host`; `self.port` is its port (0 picks a free one)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Greeter(self),
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=self._handshake_timeout_s,
            ssl_shutdown_timeout=1.0,  # a peer that does not answer our close_notify shall not hold the socket
            backlog=1_024,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.on_faults_changed()

    async def stop(self, drain_s: float) -> None:
        """The listener is closed and no connection is left; those with open streams had up to `drain_s`."""
        if self.port:
            self._server.close()
        if self._mode_timer is not None:
            self._mode_timer.cancel()
        for connection in list(self._connections):
            connection.shut_down()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), drain_s)
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._http1):
            task.cancel()
        await asyncio.gather(*self._http1, return_exceptions=True)
        self._end_severed()

    def statistics(self) -> dict[str, int]:
        """Connections open now, by protocol, and sockets held without FIN."""
        return {"open_h2": len(self._connections), "open_http1": len(self._http1), "half_open": len(self._severed)}

    def on_faults_changed(self) -> None:
        """The mode of the faults in force holds for all connections; asked again when a fault begins or ends."""
        now = self._exchange.monotonic()
        mode = self._exchange.script.mode(now)
        if mode != self._mode:
            self._mode = mode
            if not mode.is_half_open:
                self._end_severed()
            for connection in list(self._connections):
                connection.on_mode(mode)
        if self._mode_timer is not None:
            self._mode_timer.cancel()
            self._mode_timer = None
        deadline = self._exchange.script.next_deadline(now)
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._mode_timer = loop.call_later(max(0.0, deadline - now) + 0.001, self.on_faults_changed)

    def on_handshake_complete(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """The protocol for a new connection, or None when it is refused (too many, or no protocol in common)."""
        counts = self._exchange.counts.connection
        counts["handshakes_completed"] += 1
        tls: Any = transport.get_extra_info("ssl_object")
        counts["handshakes_resumed"] += bool(tls.session_reused)
        if len(self._connections) + len(self._http1) >= self._connections_max:
            self._exchange.counts.closed["connections_max"] += 1
            return None
        counts["opened"] += 1
        match tls.selected_alpn_protocol():
            case "h2":
                counts["opened_h2"] += 1
                topics = topics_of(tls.getpeercert())
                counts["client_certificates"] += bool(topics)
                connection = Http2Connection(
                    self._exchange,
                    self._rules,
                    self._mode,
                    self._exchange.vendor.new_bond(topics),
                    self._on_connection_end,
                    self._severed.append,
                    is_known=bool(topics),
                )
                self._connections.add(connection)
                self._is_empty.clear()
                return connection
            case "http/1.1":
                counts["opened_http1"] += 1
                reader = asyncio.StreamReader()
                return asyncio.StreamReaderProtocol(reader, self._serve_http1)
            case _:
                self._exchange.counts.closed["no_alpn"] += 1
                return None

    def _on_connection_end(self, connection: Http2Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._is_empty.set()

    def _on_client_hello(self) -> str:
        self._exchange.counts.connection["handshakes_begun"] += 1
        fault = self._exchange.script.on_handshake(self._exchange.monotonic())
        return "good" if fault is None else fault.form

    def _end_severed(self) -> None:
        for severed in self._severed:
            severed.end()
        self._severed.clear()

    # ---- HTTP/1.1: no streams to refuse, so the stream faults end the connection instead

    async def _serve_http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._http1.add(task)
        try:
            body_bytes_max = self._exchange.vendor.body_bytes_max
            await serve_http1(reader, writer, lambda request: self._answer_http1(request, writer), body_bytes_max)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._http1.discard(task)
            self._exchange.counts.connection["closed"] += 1
            self._exchange.counts.closed["http1"] += 1

    async def _answer_http1(self, request: Request, writer: asyncio.StreamWriter) -> Reply:
        plan = self._exchange.plan(request)
        if plan.latency_s:
            await asyncio.sleep(plan.latency_s)
        answer: Answer | None = self._exchange.judge(request, self._exchange.vendor.new_bond(frozenset()), plan)
        match plan.instead:
            case ResetSocket():
                reset(writer.transport)  # type: ignore[arg-type]  # typeshed says WriteTransport; it is a Transport
                raise Hangup
            case TlsAbort():
                end_without_notify(writer.transport)  # type: ignore[arg-type]
                raise Hangup
            case RefusedStream() | ResetStream() | Goaway() | Malformed():
                raise Hangup
            case NoAnswer():
                await asyncio.Event().wait()
            case _:
                pass
        assert answer is not None
        return Reply(answer.status, answer.headers, answer.body)


class Greeter(asyncio.Protocol):
    """Lives from the end of the TLS handshake until the protocol that ALPN chose takes over, in the same call."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the transport to the protocol of the connection, or close it."""
        transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        protocol = self._front.on_handshake_complete(transport)
        if protocol is None:
            transport.close()
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

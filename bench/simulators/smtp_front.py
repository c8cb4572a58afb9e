"""The e-mail simulator's listener: SMTP as RFC 5321 wants it, strictly, over TLS or with STARTTLS (asyncio).

    connected --EHLO--> greeted --[STARTTLS, EHLO]--> --AUTH--> ready --MAIL--> --RCPT--> --DATA--> ready
                                                                  '------------- RSET -------------'

A command out of its order gets 503, one without encryption or login 530, a line that is too long 500; ten such faults
end the session. Faults of the script: latency, errors, throttle, drop, double; those that end a connection end the
session before its reply (`recorded` as they say). One recipient per message.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl

from bench.simulators.email import Email
from bench.simulators.exchange import Answer, Exchange, Request
from bench.simulators.fault_kinds import ErrorShare, Throttle
from bench.simulators.tls import TlsFiles, server_context

COMMAND_OCTETS_MAX = 512
FAULTS_MAX = 10
MAIL_FORM = re.compile(r"FROM:<([^<>\s]*)>((?: [A-Z0-9-]+(?:=[!-<>-~]*)?)*)", re.IGNORECASE)
RCPT_FORM = re.compile(r"TO:<([^<>\s]+)>", re.IGNORECASE)


class SmtpFront:
    """Has the interface of front.Front."""

    def __init__(self, exchange: Exchange, vendor: Email, tls_files: TlsFiles, connections_max: int) -> None:
        self._exchange = exchange
        self._vendor = vendor
        self._context = server_context(tls_files, [], self._on_client_hello)
        self._connections_max = connections_max
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listening; `self.port` is the port."""
        context = None if self._vendor.section.starttls else self._context
        self._server = await asyncio.start_server(self._serve, host, port, ssl=context, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, drain_s: float) -> None:
        """Sessions had up to drain_s to end, then they are aborted."""
        self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def statistics(self) -> dict[str, int]:
        """Sessions open now."""
        return {"open_smtp": len(self._tasks)}

    def on_faults_changed(self) -> None:
        """Nothing is held in a state by a fault."""

    def _on_client_hello(self) -> str:
        fault = self._exchange.script.on_handshake(self._exchange.monotonic())
        return "good" if fault is None else fault.form

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        counts = self._exchange.counts
        counts.connection["opened"] += 1
        try:
            if len(self._tasks) > self._connections_max:
                counts.closed["connections_max"] += 1
                writer.write(b"421 4.3.2 too many connections\r\n")
            else:
                await _Session(self._exchange, self._vendor, self._context, reader, writer).run()
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            counts.closed["lost"] += 1
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            counts.connection["closed"] += 1
            writer.close()


class _Hangup(Exception):
    """The session ends without another word."""


class _Session:
    """One client, from greeting to QUIT."""

    def __init__(
        self,
        exchange: Exchange,
        vendor: Email,
        context: ssl.SSLContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._exchange = exchange
        self._vendor = vendor
        self._context = context
        self._reader = reader
        self._writer = writer
        self._is_encrypted = not vendor.section.starttls
        self._is_greeted = self._is_known = False
        self._sender: str | None = None
        self._recipient: str | None = None
        self._n_faults = self._n_messages = 0

    async def run(self) -> None:
        """Until the client or a fault ends it."""
        await self._say(220, "sim.example.com ESMTP")
        try:
            while True:
                line = await self._line(COMMAND_OCTETS_MAX)
                word, _, rest = line.partition(" ")
                if word.upper() == "QUIT":
                    await self._say(221, "2.0.0 bye")
                    return
                await self._command(word.upper(), rest)
                if self._n_faults > FAULTS_MAX:
                    await self._say(421, "4.7.0 too many errors")
                    return
        except _Hangup:
            return

    async def _command(self, word: str, rest: str) -> None:
        match word:
            case "EHLO":
                await self._ehlo(rest)
            case "STARTTLS" if not self._is_encrypted and self._is_greeted:
                await self._starttls()
            case "NOOP":
                await self._say(250, "2.0.0 ok")
            case "RSET":
                self._sender = self._recipient = None
                await self._say(250, "2.0.0 ok")
            case "AUTH" | "MAIL" | "RCPT" | "DATA" if not self._is_encrypted:
                await self._fault(530, "5.7.0 must issue STARTTLS first")
            case "AUTH" if self._is_greeted and not self._is_known:
                await self._auth(rest)
            case "MAIL" | "RCPT" | "DATA" if not self._is_known:
                await self._fault(530, "5.7.0 authentication required")
            case "MAIL" if self._sender is None:
                await self._mail(rest)
            case "RCPT" if self._sender is not None and self._recipient is None:
                await self._rcpt(rest)
            case "DATA" if self._recipient is not None:
                await self._data()
            case "AUTH" | "MAIL" | "RCPT" | "DATA" | "STARTTLS":
                await self._fault(503, "5.5.1 bad sequence of commands")
            case _:
                await self._fault(500, "5.5.2 command not known")

    async def _ehlo(self, name: str) -> None:
        if not name.strip():
            await self._fault(501, "5.5.4 EHLO needs a name")
            return
        self._is_greeted = True
        self._sender = self._recipient = None
        words = ["sim.example.com", f"SIZE {self._vendor.section.message_bytes_max}", "ENHANCEDSTATUSCODES"]
        words.append("AUTH PLAIN LOGIN" if self._is_encrypted else "STARTTLS")
        for word in words[:-1]:
            self._writer.write(f"250-{word}\r\n".encode())
        await self._say(250, words[-1])

    async def _starttls(self) -> None:
        await self._say(220, "2.0.0 ready to start TLS")
        await self._writer.start_tls(self._context)
        self._is_encrypted, self._is_greeted = True, False

    async def _auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        section = self._vendor.section
        try:
            if mechanism.upper() == "PLAIN":
                _, user, password = _decoded(initial or await self._asked("")).split("\0")
            elif mechanism.upper() == "LOGIN":
                user = _decoded(initial or await self._asked("VXNlcm5hbWU6"))
                password = _decoded(await self._asked("UGFzc3dvcmQ6"))
            else:
                await self._fault(504, "5.5.4 mechanism not known")
                return
        except ValueError:
            await self._fault(501, "5.5.2 cannot decode")
            return
        if (user, password) != (section.user_name, section.password):
            self._exchange.counts.reasons["535 credentials"] += 1
            await self._fault(535, "5.7.8 credentials invalid")
            return
        self._is_known = True
        await self._say(235, "2.7.0 accepted")

    async def _asked(self, challenge: str) -> str:
        await self._say(334, challenge)
        return await self._line(12_288)

    async def _mail(self, rest: str) -> None:
        found = MAIL_FORM.fullmatch(rest)
        if found is None:
            await self._fault(501, "5.5.4 MAIL FROM:<address>")
            return
        limit = self._vendor.section.messages_per_session
        if limit and self._n_messages >= limit:
            await self._say(421, "4.7.0 too many messages in one session")
            raise _Hangup
        for parameter in found[2].split():
            name, _, value = parameter.partition("=")
            if name.upper() != "SIZE":
                await self._fault(555, f"5.5.4 parameter {name[:20]} not known")
                return
            if int(value) > self._vendor.section.message_bytes_max:
                await self._say(552, "5.3.4 message too big")
                return
        if found[1].rpartition("@")[2] != self._vendor.section.sender_domain:
            await self._say(550, "5.7.1 sender is not the account's")
            return
        self._sender = found[1]
        await self._say(250, "2.1.0 sender ok")

    async def _rcpt(self, rest: str) -> None:
        found = RCPT_FORM.fullmatch(rest)
        if found is None:
            await self._fault(501, "5.5.4 RCPT TO:<address>")
            return
        answer = self._vendor.judge(Request("RCPT", found[1], (), b"", 0), None)
        if answer.is_success:
            self._recipient = found[1]
        else:
            self._exchange.counts.outcomes["refused"] += 1
            self._exchange.counts.reasons[f"{answer.status} {answer.reason}"] += 1
        await self._reply(answer)

    async def _data(self) -> None:
        assert self._recipient is not None
        request = Request("DATA", self._recipient, (), b"", 0)
        plan = self._exchange.plan(request)
        await self._say(354, "go ahead")
        body = await self._message()
        request = Request("DATA", self._recipient, (), body, len(body))
        self._sender = self._recipient = None
        self._n_messages += 1
        if plan.latency_s:
            await asyncio.sleep(plan.latency_s)
        answer = self._exchange.judge(request, None, plan)
        if plan.instead is not None and not isinstance(plan.instead, ErrorShare | Throttle):
            # Reset, GOAWAY, no answer ...: the reply never comes.
            self._writer.transport.abort()
            raise _Hangup
        assert answer is not None
        await self._reply(answer)

    async def _message(self) -> bytes:
        """The message without the dots that were put before its own."""
        lines: list[bytes] = []
        size = 0
        while (line := await self._reader.readuntil(b"\n")) != b".\r\n":
            size += len(line)
            if size <= self._vendor.body_bytes_max:
                lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    async def _line(self, octets_max: int) -> str:
        line = await self._reader.readuntil(b"\n")
        if len(line) > octets_max or not line.endswith(b"\r\n") or not line.isascii():
            await self._fault(500, "5.5.2 line too long, not ended by CR LF, or not ASCII")
            raise _Hangup
        return line[:-2].decode("ascii")

    async def _reply(self, answer: Answer) -> None:
        await self._say(answer.status, answer.body.decode("ascii", "replace"))

    async def _fault(self, code: int, text: str) -> None:
        self._n_faults += 1
        self._exchange.counts.reasons[f"{code} {text[:5]}"] += 1
        await self._say(code, text)

    async def _say(self, code: int, text: str) -> None:
        self._writer.write(f"{code} {text}\r\n".encode("ascii", "replace"))
        await self._writer.drain()


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("no base64 of UTF-8") from error

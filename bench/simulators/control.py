"""The control port: HTTP/1.1 with JSON, for testers and for the demo. No TLS, loopback by default.

    GET  /healthz                              200 {"ok": true}
    GET  /statistics                           per simulator: outcomes, reasons, faults, connections, received
    GET  /requests?simulator=apns&last=20      newest last, authorization shortened
    GET  /refused?simulator=apns&last=20       what was refused and why
    GET  /received?simulator=apns&format=json  JSON lines (or format=binary: 76-byte rows, see received.BINARY_ROW)
    GET  /fault                                armed faults
    PUT  /fault       {"simulator": "apns", "kind": "latency", "ms": 300, "for_s": 10}     -> {"id": 1}
    DELETE /fault     [?simulator=apns][&id=1]                                             -> {"deleted": n}
    PUT  /tokens      {"simulator": "apns", "fate": "Unregistered", "tokens": [...]}       -> {"added": n}
    GET, PUT /clock   {"advance_s": 3600}                                                  -> {"offset_s": 3600.0}
    POST /reset       [?simulator=apns]

Without `simulator` a call means all of them (PUT /fault too). Errors: 400, 404 or 405 with {"error": text}.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from bench.simulators.exchange import Header, Request
from bench.simulators.fates import Fate
from bench.simulators.fault_kinds import Fault
from bench.simulators.fields import to_json
from bench.simulators.http1 import Reply, serve_http1
from bench.simulators.received import BINARY_ROW, ROWS_PER_CHUNK

if TYPE_CHECKING:
    from bench.simulators.server import Simulator, Simulators

BODY_BYTES_MAX = 64 * 1024 * 1024  # PUT /tokens may name a few hundred thousand tokens
JSON: tuple[Header, ...] = ((b"content-type", b"application/json"),)
CREDENTIALS = (b"authorization", b"authtoken", b"auth_token")
AUTHORIZATION_SHOWN = 20  # characters of a credential shown in GET /requests: enough to tell two apart


class ControlError(Exception):
    """The caller's mistake: status and text of the reply."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ControlPort:
    """Listener of the control port; see the module docstring for its calls."""

    def __init__(self, simulators: Simulators) -> None:
        self._simulators = simulators
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self._calls: dict[tuple[str, str], Callable[[dict[str, str], Request], Reply]] = {
            ("GET", "/healthz"): self._healthz,
            ("GET", "/statistics"): self._statistics,
            ("GET", "/requests"): self._requests,
            ("GET", "/refused"): self._refused,
            ("GET", "/received"): self._received,
            ("GET", "/fault"): self._faults,
            ("PUT", "/fault"): self._arm,
            ("DELETE", "/fault"): self._disarm,
            ("PUT", "/tokens"): self._add_tokens,
            ("GET", "/clock"): self._clock,
            ("PUT", "/clock"): self._advance,
            ("POST", "/reset"): self._reset,
        }

    async def start(self, host: str, port: int) -> None:
        """The control port is open; `self.port` is its number."""
        self._server = await asyncio.start_server(self._serve, host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """The control port is closed, calls in progress are cut."""
        if self.port:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await serve_http1(reader, writer, self._answer, BODY_BYTES_MAX)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _answer(self, request: Request) -> Reply:
        target = urlsplit(request.path)
        query = dict(parse_qsl(target.query))
        try:
            call = self._calls.get((request.method, target.path))
            if call is None:
                is_known = any(path == target.path for _, path in self._calls)
                raise ControlError(405 if is_known else 404, f"{request.method} {target.path} is not a call")
            return call(query, request)
        except ControlError as error:
            return _json({"error": str(error)}, error.status)
        except (ValueError, msgspec.MsgspecError) as error:
            return _json({"error": str(error)}, 400)

    def _chosen(self, name: str | None) -> dict[str, Simulator]:
        running = self._simulators.by_name
        if name is None:
            return running
        if name not in running:
            raise ControlError(404, f"simulator is {name!r}, running: {', '.join(running)}")
        return {name: running[name]}

    # ---- calls that look

    def _healthz(self, query: dict[str, str], request: Request) -> Reply:
        return _json({"ok": True, "simulators": list(self._simulators.by_name)})

    def _statistics(self, query: dict[str, str], request: Request) -> Reply:
        shown = {}
        for name, simulator in self._chosen(query.get("simulator")).items():
            exchange = simulator.exchange
            counted = exchange.counts.statistics()
            counted["connections"] |= simulator.front.statistics()
            counted["receipts"]["due"] = 0 if exchange.courier is None else exchange.courier.n_due
            counted["received"] = exchange.received.statistics()
            counted["without_message_id"] = getattr(exchange.vendor, "n_without_message_id", 0)
            shown[name] = counted
        return _json(shown)

    def _requests(self, query: dict[str, str], request: Request) -> Reply:
        return _json(
            {name: _last(one.exchange.recent, query) for name, one in self._chosen(query.get("simulator")).items()}
        )

    def _refused(self, query: dict[str, str], request: Request) -> Reply:
        return _json(
            {name: _last(one.exchange.refused, query) for name, one in self._chosen(query.get("simulator")).items()}
        )

    def _received(self, query: dict[str, str], request: Request) -> Reply:
        chosen = self._chosen(query.get("simulator"))
        match query.get("format", "json"):
            case "json":
                return Reply(200, ((b"content-type", b"application/x-ndjson"),), pieces=_json_rows(chosen))
            case "binary" if len(chosen) == 1:
                kind = ((b"content-type", b"application/octet-stream"), (b"x-row-bytes", b"%d" % BINARY_ROW.size))
                return Reply(200, kind, pieces=_binary_rows(next(iter(chosen.values()))))
            case "binary":
                raise ControlError(400, "format binary needs simulator=<name>")
            case other:
                raise ControlError(400, f"format is {other!r}, expected json or binary")

    def _faults(self, query: dict[str, str], request: Request) -> Reply:
        chosen = self._chosen(query.get("simulator"))
        return _json({name: one.exchange.script.statistics(one.exchange.monotonic()) for name, one in chosen.items()})

    def _clock(self, query: dict[str, str], request: Request) -> Reply:
        clock = self._simulators.clock
        return _json({"offset_s": clock.offset_s, "now_unix_s": clock.now_unix_s()})

    # ---- calls that change

    def _arm(self, query: dict[str, str], request: Request) -> Reply:
        body = _object(request)
        chosen = self._chosen(body.pop("simulator", query.get("simulator")))
        fault = msgspec.convert(body, Fault)
        ids = {}
        for name, simulator in chosen.items():
            ids[name] = simulator.exchange.script.arm(fault, simulator.exchange.monotonic())
            simulator.front.on_faults_changed()
        return _json({"id": next(iter(ids.values())), "ids": ids})

    def _disarm(self, query: dict[str, str], request: Request) -> Reply:
        fault_id = int(query["id"]) if "id" in query else None
        if fault_id is not None and "simulator" not in query and len(self._simulators.by_name) > 1:
            raise ControlError(400, "id needs simulator=<name>: each simulator numbers its own faults")
        deleted = 0
        for simulator in self._chosen(query.get("simulator")).values():
            deleted += simulator.exchange.script.disarm(fault_id)
            simulator.front.on_faults_changed()
        return _json({"deleted": deleted})

    def _add_tokens(self, query: dict[str, str], request: Request) -> Reply:
        body = _object(request)
        chosen = self._chosen(body.pop("simulator", query.get("simulator")))
        if len(chosen) != 1:
            raise ControlError(400, "simulator is missing: fates are the vendor's own words")
        fate = msgspec.convert(body, Fate)
        for simulator in chosen.values():
            simulator.exchange.vendor.fates.add(fate)
        return _json({"added": len(fate.tokens) + len(fate.prefixes)})

    def _advance(self, query: dict[str, str], request: Request) -> Reply:
        seconds = _object(request).get("advance_s")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ControlError(400, "advance_s is missing or not a number")
        return _json({"offset_s": self._simulators.clock.advance(seconds)})

    def _reset(self, query: dict[str, str], request: Request) -> Reply:
        chosen = self._chosen(query.get("simulator"))
        for simulator in chosen.values():
            simulator.reset()
        return _json({"reset": list(chosen)})


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, JSON, to_json(value) + b"\n")


def _object(request: Request) -> dict[str, Any]:
    body = msgspec.json.decode(request.body or b"{}")
    if not isinstance(body, dict):
        raise ControlError(400, "the body is not a JSON object")
    return body


def _last(entries: Any, query: dict[str, str]) -> list[dict[str, Any]]:
    """The last n entries, newest last, fit for JSON and without whole credentials."""
    last = int(query.get("last", "20"))
    if last < 0:
        raise ControlError(400, f"last is {last}, expected 0 or more")
    return [_shown(entry) for entry in islice(entries, max(0, len(entries) - last), None)]


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    body: bytes = entry["body"]
    try:
        shown: dict[str, Any] = {"body": body.decode()}
    except UnicodeDecodeError:
        shown = {"body_base64": base64.b64encode(body).decode()}
    headers = []
    for name, value in entry["headers"]:
        text = value.decode("latin-1")
        if name in CREDENTIALS and len(text) > AUTHORIZATION_SHOWN:
            text = text[:AUTHORIZATION_SHOWN] + "..."
        headers.append([name.decode("latin-1"), text])
    return (
        entry | {"headers": headers} | shown if "body" in shown else _without_body(entry) | {"headers": headers} | shown
    )


def _without_body(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "body"}


async def _json_rows(chosen: dict[str, Simulator]) -> AsyncIterator[bytes]:
    encoder = msgspec.json.Encoder()
    for name, simulator in chosen.items():
        rows = simulator.exchange.received.snapshot().rows()
        while chunk := list(islice(rows, ROWS_PER_CHUNK)):
            yield encoder.encode_lines([row | {"simulator": name} for row in chunk])
            await asyncio.sleep(0)  # the vendor side answers between two chunks


async def _binary_rows(simulator: Simulator) -> AsyncIterator[bytes]:
    rows = simulator.exchange.received.snapshot().binary()
    while chunk := list(islice(rows, ROWS_PER_CHUNK)):
        yield b"".join(chunk)
        await asyncio.sleep(0)

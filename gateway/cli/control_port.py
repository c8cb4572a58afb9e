"""The simulators' control port as the command line uses it: HTTP/1.1 with JSON on loopback (docs/simulators.md)."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.cli.exit_codes import UsageError
from gateway.client.errors import GatewayUnreachable

#: Seconds per call; loopback answers at once, /received of a million rows streams.
TIMEOUT_S = 10.0


class ControlPort:
    """One connection per call. Every method raises GatewayUnreachable, or UsageError for a call that is refused."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    @classmethod
    def at(cls, address: str) -> ControlPort:
        """address: host:port, or http://host:port as `pushgw simulate` prints it."""
        host, mark, port = address.removeprefix("http://").rstrip("/").rpartition(":")
        if not mark or not host or not port.isdigit():
            raise UsageError(f"{address!r} is not HOST:PORT of a control port")
        return cls(host.strip("[]"), int(port))

    def advance_clock(self, seconds: float) -> float:
        """By how many seconds the simulators' clock is ahead of the machine's from now on."""
        return float(self._call("PUT", "/clock", {"advance_s": seconds})["offset_s"])

    def arm_fault(self, fault: dict[str, Any]) -> None:
        """On all simulators, unless it names one."""
        self._call("PUT", "/fault", fault)

    def statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = self._call("GET", "/statistics")
        return found

    def received(self) -> Iterator[dict[str, Any]]:
        """Every row of every simulator, as it comes."""
        connection, response = self._request("GET", "/received?format=json", None)
        try:
            for line in response:
                if line.strip():
                    yield msgspec.json.decode(line)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection, response = self._request(method, path, body)
        try:
            return msgspec.json.decode(response.read())
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise self._lost(error) from error
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            encoded = None if body is None else msgspec.json.encode(body)
            connection.request(method, path, encoded, {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                text = response.read(4096).decode(errors="replace").strip()
                raise UsageError(f"{method} {path} at the control port: {response.status} {text}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._lost(error) from error
        except UsageError:
            connection.close()
            raise
        return connection, response

    def _lost(self, error: Exception) -> GatewayUnreachable:
        return GatewayUnreachable(f"control port of the simulators at {self._host}:{self._port}: {error}")

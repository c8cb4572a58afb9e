"""A generator's process as `bench longlink` talks to it, and what its lines share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.harness import Line
from bench.longlink_servers import Server
from gateway.cli.demo.processes import Child, Children

_TIMEOUT_S = 180.0


class Fleet:
    """A generator and its devices."""

    def __init__(self, children: Children, name: str) -> None:
        self._child: Child = children.start(name, ["bench.longlink_generator"])

    def call(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        self._child.write_json({"cmd": cmd, **arguments})
        return self._child.read_json(cmd, _TIMEOUT_S + 10.0)

    def begin(
        self, server: Server, first: int, n: int, *, sources: Sequence[str] = (), comes_back_within_s: float = 0.0
    ) -> int:
        """Devices first..first + n begin to connect; when that was, in monotonic nanoseconds."""
        host, port = server.address
        asked = self.call(
            "connect",
            host=host,
            port=port,
            first=first,
            n=n,
            user=server.user,
            secret=server.secret,
            sources=list(sources),
            comes_back_within_s=comes_back_within_s,
        )
        return int(asked["started_ns"])

    def wait_ready(self, n: int) -> dict[str, Any]:
        done = self.call("wait", what="ready", n=n, timeout_s=_TIMEOUT_S)
        assert done["ready"] >= n, f"{done['ready']} of {n} devices are connected: {done}"
        return done

    def connect(self, server: Server, n: int) -> float:
        """All are connected and subscribed; the seconds it took."""
        started_ns = self.begin(server, 0, n)
        done = self.wait_ready(n)
        assert done["failed"] == 0, f"{done['failed']} connects failed at {server.name}"
        return float(done["ready_ns"] - started_ns) / 1e9

    def push(self, server: Server, n: int, pushes: int) -> float:
        """Seconds for so many messages to each device, one after the other."""
        received = self.call("wait", what="received", n=0, timeout_s=0.0)["received"]
        took_ns = 0
        for number in range(1, pushes + 1):
            started_ns = time.monotonic_ns()
            server.push(0, n)
            wanted = received + number * n
            seen = self.call("wait", what="received", n=wanted, timeout_s=30.0)
            assert seen["received"] == wanted, f"{seen['received']} of {wanted} messages came through {server.name}"
            assert seen["dup"] == seen["lost"] == 0, f"{server.name}: {seen}"
            took_ns += seen["last_ns"] - started_ns
        return took_ns / 1e9

    def quit(self) -> None:
        self._child.write_json({"cmd": "quit"})


def ratios(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Line:
    """Median, smallest and largest of the rounds' ratios."""
    found = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        name: round(statistics.median(found), 3),
        f"{name}_min": round(min(found), 3),
        f"{name}_max": round(max(found), 3),
    }

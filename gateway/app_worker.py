"""One of several workers, as the supervisor starts it: `python -m gateway.app_worker FD`, FD being the control socket.

A fresh process, not a fork: a running event loop, its threads and its locks cannot be copied. It gets what it needs in
the `start` message, which may come long after its imports (actors/spare_process.py), says `ready`, and ends with the
control socket, with `stop`, or with SIGTERM. Ctrl-C goes to the whole foreground group; it is the supervisor's to say
what follows from it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

import trio

from gateway.actors.control_port import ControlPort
from gateway.actors.peers import Peers, WorkerPlace
from gateway.app import Worker
from gateway.app_parts import make_log
from gateway.app_siblings import Siblings
from gateway.app_signals import serve_until_signal
from gateway.cli.exit_codes import ExitCode
from gateway.config import Config, load_config
from gateway.config_shares import share_of_worker, with_addresses
from gateway.core.shadow import Life
from gateway.errors import ConfigError, StoreCorrupt, StoreError
from gateway.observe.metrics import Metrics
from gateway.observe.shared import SharedColumns
from gateway.wire.worker_control import Start, ToWorker, WorkerEnd

_READ_BYTES = 65_536
#: As of any crash.
_DISK_REFUSES = 1
#: The kernel's table of files grows to the highest number, 8 bytes each: less than a megabyte.
_CONTROL_FD_MAX = 100_000


def main(control_fd: int) -> int:
    """The worker has run; its exit code. USAGE: the configuration, or what the disk holds, cannot be served, and no
    restart will mend that."""
    # While it waits to be told what it is; `serve_until_signal` has its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = _raised(control_fd)
    received = WorkerEnd()
    said = _read_start(control, received)
    start = said[0] if said else None
    if not isinstance(start, Start):
        return ExitCode.GOOD
    try:
        _serve(control, received, start, said[1:])
    except (ConfigError, StoreError) as error:
        sys.stderr.write(f"pushgw: worker {start.worker}: {error}\n")
        # A disk that is full or cannot be written to may be mended by the next start.
        return ExitCode.USAGE if isinstance(error, (ConfigError, StoreCorrupt)) else _DISK_REFUSES
    return ExitCode.GOOD


def end_process(code: int) -> NoReturn:
    """The process ends now. All that it had to close is closed; taking a heap of this size apart takes the interpreter
    a tenth of a second, and its next life waits for that."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _raised(fd: int) -> socket.socket:
    """The socket under a number above those of devices. Linux closes the files of a killed process from the highest
    number down, so the supervisor hears of the death before thousands of other sockets are closed: after 10 to 20 ms
    instead of 100 with 5,000."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, min(soft, _CONTROL_FD_MAX) - 1)
    os.close(fd)
    return socket.socket(fileno=high)


def _read_start(control: socket.socket, received: WorkerEnd) -> list[ToWorker]:
    """`start`, and what came with it; nothing when the supervisor has gone meanwhile."""
    while data := control.recv(_READ_BYTES):
        if said := received.receive_data(data):
            return said
    return []


def _serve(control: socket.socket, received: WorkerEnd, start: Start, more: list[ToWorker]) -> None:
    whole = load_config(start.config_file, text=start.config_text)
    whole = with_addresses(whole, rpc=start.rpc, long_link=start.long_link, http=start.http, receipts=start.receipts)
    config = share_of_worker(whole, start.workers)
    sys.setswitchinterval(config.gateway.switch_interval_ms / 1000)
    columns = map_columns(config, start.metric_files)
    metrics = columns[start.worker].open(start.incarnation)
    assert isinstance(metrics, Metrics)
    place = WorkerPlace(start.worker, start.workers, start.incarnation, start.run_folder)

    def build() -> Worker:
        control.setblocking(False)
        peers = Peers()
        port = ControlPort(trio.SocketStream(trio.socket.from_stdlib_socket(control)), peers, received, more)
        living = [Life(*one) for one in start.living]
        for life in living:
            peers.linked(*life)
        siblings = Siblings(place, peers, port, columns, start.unix_listeners, start.clock_offset_s, living)
        log = make_log(config, metrics).bind(worker=place.worker)
        return Worker(config, log=log, metrics=metrics, siblings=siblings)

    async def obey(worker: Worker) -> None:
        assert worker.siblings is not None
        await worker.siblings.control.run(worker)

    serve_until_signal(build, signals=(signal.SIGTERM,), beside=obey)


def map_columns(config: Config, metric_files: list[int]) -> list[SharedColumns]:
    """The shared columns of all workers and of the supervisor. The descriptors are closed: the maps keep the memory."""
    columns = [
        SharedColumns(fd, Metrics, label_values_max=config.observe.label_values_max, apps=len(config.apps))
        for fd in metric_files
    ]
    for fd in metric_files:
        os.close(fd)
    return columns


if __name__ == "__main__":
    end_process(main(int(sys.argv[1])))

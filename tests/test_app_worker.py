"""What a worker process says of a disk that it cannot work with, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import app_worker
from gateway.cli.exit_codes import ExitCode
from gateway.errors import StoreCorrupt, StoreReadOnly
from gateway.wire.worker_control import Start, encode


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        # Ten starts would not mend it.
        (StoreCorrupt("/var/ledger.db", "database has schema 6, this version knows up to 5"), ExitCode.USAGE),
        (StoreReadOnly("/var/ledger.db", "cannot be written to"), 1),
    ],
)
def test_a_disk_that_cannot_be_used_is_named_in_one_line_and_a_newer_one_is_not_tried_again(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(control: socket.socket, *_: Any) -> None:
        control.close()
        raise error

    monkeypatch.setattr(app_worker, "_serve", refuse)
    start = Start(
        worker=1, workers=2, incarnation=3, run_folder="", config_file="", config_text=b"", rpc=[], long_link=[],
        http="", unix_listeners={}, metric_files=[], clock_offset_s=0.0,
    )  # fmt: skip
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(encode(start))
        assert app_worker.main(os.dup(theirs.fileno())) == code
    theirs.close()
    assert capsys.readouterr().err == f"pushgw: worker 1: {error}\n"

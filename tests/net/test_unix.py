"""Unix listeners: the mode holds from the first moment, stale sockets are replaced, all else is refused in words."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from gateway.errors import ConfigError
from gateway.net.unix import open_unix_listener


@pytest.fixture
def path(tmp_path: Path) -> str:
    # A path of a Unix socket has at most 107 bytes; pytest's folders may be longer.
    here = os.path.relpath(tmp_path / "s.sock")
    return min(here, str(tmp_path / "s.sock"), key=len)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def echo_once(listener: trio.SocketListener) -> None:
    async with await listener.accept() as stream:
        await stream.send_all(await stream.receive_some(10))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_a_listener_has_its_mode_and_talks(path: str, mode: int) -> None:
    before = os.umask(0o077)
    try:
        listener = await open_unix_listener(path, mode=mode)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    async with listener, trio.open_nursery() as nursery:
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        assert mode_of(path) == mode
        nursery.start_soon(echo_once, listener)
        with trio.fail_after(60):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some(10) == b"hello"


async def test_the_file_is_never_wider_than_its_mode(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at between bind and listen, under the widest umask."""
    seen: list[int] = []
    chmod = os.chmod

    def watched(target: str, mode: int) -> None:
        seen.append(mode_of(target))
        chmod(target, mode)

    monkeypatch.setattr(os, "chmod", watched)
    before = os.umask(0)
    try:
        async with await open_unix_listener(path, mode=0o600):
            pass
    finally:
        os.umask(before)
    assert seen
    assert all(mode & ~0o600 == 0 for mode in seen)


async def test_a_socket_nobody_listens_on_is_replaced(path: str) -> None:
    async with await open_unix_listener(path, mode=0o600):
        pass
    assert os.path.exists(path)
    async with await open_unix_listener(path, mode=0o640):
        assert mode_of(path) == 0o640
        async with await trio.open_unix_socket(path):
            pass


async def test_a_socket_in_use_is_left_to_its_owner(path: str) -> None:
    async with await open_unix_listener(path, mode=0o600) as first:
        with pytest.raises(ConfigError, match="nobody else listens on"):
            await open_unix_listener(path, mode=0o600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo_once, first)
            with trio.fail_after(60):
                async with await trio.open_unix_socket(path) as stream:
                    await stream.send_all(b"x")
                    # The probe's own connection may be first in the queue.
                    await stream.send_eof()
                    nursery.start_soon(echo_once, first)
                    assert await stream.receive_some(10) == b"x"


@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
async def test_a_file_of_another_kind_is_not_touched(path: str, kind: str) -> None:
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "folder":
        Path(path).mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match="a file of another kind"):
        await open_unix_listener(path, mode=0o600)
    assert os.path.exists(path)
    if kind == "file":
        assert Path(path).read_text() == "precious"


async def test_a_place_that_cannot_be_is_refused_with_key_and_reason(path: str, tmp_path: Path) -> None:
    beside_a_file = tmp_path / "plain"
    beside_a_file.write_text("")
    for bad, why in (
        (str(tmp_path / "no" / "such" / "folder"), "No such file or directory"),
        (str(beside_a_file / "s"), "Not a directory"),
        (str(tmp_path / ("x" * 300)), "File name too long"),
        (str(tmp_path / ("y" * 150)), "too long"),
    ):
        with pytest.raises(ConfigError, match=why) as refused:
            await open_unix_listener(bad, mode=0o600)
        assert (refused.value.key, refused.value.value) == ("socket", bad)
    assert os.listdir(tmp_path) == ["plain"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to every socket")
async def test_a_socket_one_may_not_ask_is_refused(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        os.chmod(path, 0)
        with pytest.raises(ConfigError, match="Permission denied"):
            await open_unix_listener(path, mode=0o600)
        assert os.path.exists(path)


async def test_a_refused_listener_leaves_no_socket_open(tmp_path: Path) -> None:
    """Warnings are errors: a socket that is left to the collector fails the test."""
    with pytest.raises(ConfigError):
        await open_unix_listener(str(tmp_path / "no" / "folder"), mode=0o600)

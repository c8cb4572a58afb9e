"""Sessions of e-mail: the password is asked for where everything else of the worker is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.actors.vendor_connection_smtp import SmtpVendorConnection
from gateway.app_smtp import session_opener
from gateway.config import Config, load_config
from gateway.errors import CloseReason, ConfigError
from gateway.wire.h2.events import Event, Terminated
from vendors.email import Settings

SETTINGS = Settings(host="127.0.0.1", port=1, sender="a@b.c", user_name="u", password_file="p")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "g.toml"
    file.write_text('[gateway]\ndata_dir = "d"\n')
    return load_config(file, with_files=False)


@pytest.mark.parametrize(
    ("secret", "reason"), [(b"password", CloseReason.CONNECT_FAILED), (None, CloseReason.BAD_CREDENTIALS)]
)
async def test_the_password_is_asked_for_on_the_loop(config: Config, secret: bytes | None, reason: CloseReason) -> None:
    asked: list[int] = []

    def password() -> bytes | None:
        asked.append(threading.get_ident())
        return secret

    told: list[Event] = []
    opened: Any = session_opener(config, "shop", SETTINGS, password)(lambda _, events: told.extend(events))
    assert isinstance(opened, SmtpVendorConnection)
    assert await opened.run() is reason
    assert asked == [threading.get_ident()]
    assert isinstance(told[-1], Terminated)


def test_a_ca_file_that_is_not_there_is_an_error_of_the_configuration(config: Config) -> None:
    settings = msgspec.structs.replace(SETTINGS, ca_file="/nowhere/ca.pem")
    with pytest.raises(ConfigError, match=r"apps\.shop\.email\.ca_file"):
        session_opener(config, "shop", settings, lambda: b"")

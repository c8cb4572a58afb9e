"""Settings that all vendors share: how their connections are made."""

from __future__ import annotations

from typing import Any

import pytest

from vendors import apns, fcm
from vendors.connecting import ConnectingSettings


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("proxy.example:3128", ("proxy.example", 3128)),
        ("http://10.0.0.1:80", ("10.0.0.1", 80)),
        ("[2001:db8::1]:8080", ("2001:db8::1", 8080)),
    ],
)
def test_proxy_is_a_host_and_a_port(written: str, place: tuple[str, int]) -> None:
    settings = ConnectingSettings(proxy=written)
    settings.check_connecting()
    assert settings.proxy_place() == place


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"proxy": "proxy.example"}, "host:port"),
        ({"proxy": ":3128"}, "host:port"),
        ({"proxy": "proxy.example:http"}, "host:port"),
        ({"proxy": "https://proxy.example/:1"}, "host:port"),
        ({"proxy": "proxy.example:0"}, "1 to 65535"),
        ({"proxy": "p:1", "proxy_user": "me"}, "proxy_password"),
        ({"proxy": "p:1", "proxy_password_env": "P"}, "proxy_user"),
        ({"proxy_user": "me", "proxy_password_env": "P"}, "needs proxy"),
        ({"proxy": "p:1", "proxy_user": "a:b", "proxy_password_env": "P"}, "colon"),
        ({"proxy": "p:1", "proxy_user": "a", "proxy_password_env": "P", "proxy_password_file": "f"}, "at most one"),
        ({"certificate_key_file": "key.pem"}, "certificate_file"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_every_vendor(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        apns.Settings("TEAM123456", "KEY1234567", "com.example.app", key_file="key.p8", **fields)
    with pytest.raises(ValueError, match=text):
        fcm.Settings("sim-project", service_account_file="account.json", **fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"topic": "com.example.app"}, "team_id"),
        ({"topic": "com.example.app", "team_id": "T", "key_id": "K"}, "or certificate_file"),
        ({"topic": "com.example.app", "certificate_file": "c.pem", "key_file": "k.p8"}, "with certificate_file"),
        ({"topic": "com.example.app", "certificate_file": "c.pem", "team_id": "T"}, "with certificate_file"),
        ({"certificate_file": "c.pem"}, "topic"),
    ],
)
def test_apns_wants_a_key_or_a_certificate(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        apns.Settings(**fields)
    settings = apns.Settings(topic="com.example.app", certificate_file="c.pem")
    assert apns.secret_place(settings).file == "c.pem"

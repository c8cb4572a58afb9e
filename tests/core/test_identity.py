"""Device passwords: the documented formula, rotation, and nothing else is accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.identity import check_device_password, device_password

DEVICE = "0123456789abcdef0123456789abcdef"
device_ids = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(st.binary(min_size=1, max_size=80), device_ids)
def test_device_password_follows_the_documented_formula(secret: bytes, device_id: str) -> None:
    mac = hmac.new(secret, b"mqtt1:" + device_id.encode(), hashlib.sha256).digest()
    assert device_password(secret, device_id) == base64.urlsafe_b64encode(mac).decode().rstrip("=")


def test_device_password_has_a_test_vector_for_other_languages() -> None:
    assert device_password(b"secret", DEVICE) == "xPM6Cv8iepJ7Y-11p2DeslSl3zc3XDnVstu1ntHW5WI"


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3, unique=True), st.data())
def test_check_accepts_a_password_of_any_secret_in_rotation(secrets: list[bytes], data: st.DataObject) -> None:
    secret = data.draw(st.sampled_from(secrets))
    assert check_device_password(tuple(secrets), DEVICE, device_password(secret, DEVICE).encode())


def test_check_accepts_one_sign_of_padding_and_no_more() -> None:
    password = device_password(b"secret", DEVICE).encode()
    assert check_device_password((b"secret",), DEVICE, password + b"=")
    assert not check_device_password((b"secret",), DEVICE, password + b"==")


@given(st.binary(max_size=60))
def test_check_refuses_every_other_password(password: bytes) -> None:
    good = device_password(b"secret", DEVICE).encode()
    assert check_device_password((b"secret",), DEVICE, password) == (password in {good, good + b"="})


def test_check_refuses_the_password_of_another_device_secret_or_no_secret_at_all() -> None:
    password = device_password(b"secret", DEVICE).encode()
    assert not check_device_password((b"secret",), DEVICE[::-1], password)
    assert not check_device_password((b"Secret",), DEVICE, password)
    assert not check_device_password((), DEVICE, password)
    assert not check_device_password((b"secret",), DEVICE, password[:-1])
    assert not check_device_password((b"secret",), DEVICE, b"\xff" * 43)

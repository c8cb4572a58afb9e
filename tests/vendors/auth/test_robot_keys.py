"""Keys of robots: one file of many lines, and what is signed with it."""

from __future__ import annotations

import pytest

from vendors.auth.robot_keys import ROBOTS_MAX, RobotKeys, dingtalk_signature, robot_of

FILE = b"# groups\n\nops  693a91f6-7000-4bc4-97a0-0ec2000000aa\nalarms " + b"f" * 64 + b" SEC" + b"1" * 64 + b"\r\n"


def test_a_robot_is_found_by_its_name_alone() -> None:
    value = RobotKeys(FILE).issue(0.0).authorization
    assert robot_of(value, b"ops") == (b"693a91f6-7000-4bc4-97a0-0ec2000000aa", b"")
    assert robot_of(value, b"alarms") == (b"f" * 64, b"SEC" + b"1" * 64)
    for name in (b"op", b"s", b"larms", b"", b"SEC", b"ops:693a91f6-7000-4bc4-97a0-0ec2000000aa"):
        assert robot_of(value, name) is None, name


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (b"ops", "line 1 is not"),
        (b"ops hunter2hunter2hunter2 hunter2hunter2hunter2 hunter2hunter2hunter2", "line 1 is not"),
        (b"ops hunter2:hunter2hunter2", "line 1 is not"),
        (b"o;s hunter2hunter2hunter2", "line 1 is not"),
        (b"# x\nops hunter2hunter2hunter2\nops hunter2hunter2hunter2", "line 3 names"),
        (b"# nobody", "0 robots"),
        (b"\n".join(b"r%d hunter2hunter2hunter2" % n for n in range(ROBOTS_MAX + 1)), f"{ROBOTS_MAX + 1} robots"),
    ],
)
def test_a_file_of_the_wrong_form_is_told_by_its_line_and_not_quoted(file: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        RobotKeys(file)
    assert "hunter2" not in str(caught.value)


def test_dingtalks_signature_is_of_time_and_secret() -> None:
    # Computed with openssl: printf 'STAMP\nSECRET' | openssl dgst -sha256 -hmac SECRET -binary | base64
    assert dingtalk_signature(b"SECdemo", b"1700000000000") == b"lOvVf9TQCVugV68mGbSZCg0gzOl1SVjxWi1MyVZCUuA="

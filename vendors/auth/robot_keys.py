"""Keys of group robots (WeCom, DingTalk): one secret of many lines, a robot each. The key stands in the URL of a
robot's requests and is all that it takes to write to its group, so targets are names, and keys stay where secrets are.

Source: https://developer.work.weixin.qq.com/document/path/91770 (group robots) and
https://open.dingtalk.com/document/group/custom-robot-access (sign; 2026-11, copies). A new key needs a new start.

    # name  key (WeCom) or access_token (DingTalk)  secret, where the robot has a signature
    ops     693a91f6-7xxx-4bc4-97a0-0ec2sifa5aaa
    alarms  ff6cd723bdb4455fe18...                   SEC1234...
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from typing import NamedTuple

from vendors.auth.credential import Issued

#: A line is some 150 bytes, and a secret's file 64 KiB at most.
ROBOTS_MAX = 400
NAME_FORM = re.compile(r"[0-9A-Za-z_.-]{1,64}")
_KEY_FORM = re.compile(r"[0-9A-Za-z_-]{16,128}")


class Robot(NamedTuple):
    """secret: empty where the robot's requests bear no signature."""

    key: bytes
    secret: bytes


class RobotKeys:
    """The robots of one app, as what requests are signed with. Raises ValueError for a file of the wrong form; its text
    names lines and no key."""

    gap_s = 0.0

    def __init__(self, file: bytes) -> None:
        lines = [line.split() for line in file.decode("ascii", "replace").splitlines()]
        names: set[str] = set()
        entries: list[str] = []
        for number, words in enumerate(lines, 1):
            if not words or words[0].startswith("#"):
                continue
            name, *keys = words
            if not NAME_FORM.fullmatch(name) or not 1 <= len(keys) <= 2 or not all(map(_KEY_FORM.fullmatch, keys)):
                raise ValueError(f"line {number} is not a name, a key and perhaps a secret")
            if name in names:
                raise ValueError(f"line {number} names a robot for a second time")
            names.add(name)
            entries.append(":".join([name, keys[0], *keys[1:]]))
        if not 1 <= len(entries) <= ROBOTS_MAX:
            raise ValueError(f"{len(entries)} robots, expected 1 to {ROBOTS_MAX}")
        self._value = f";{';'.join(entries)};".encode()

    def issue(self, now_unix_s: float, *, fresh: bool = False) -> Issued:
        """Always the same: there is nothing to renew."""
        return Issued(self._value, math.inf, math.inf)


def robot_of(value: bytes, name: bytes) -> Robot | None:
    """The robot of that name in what `RobotKeys` issued."""
    at = value.find(b";" + name + b":")
    if at < 0:
        return None
    entry = value[at + len(name) + 2 : value.index(b";", at + 1)]
    key, _, secret = entry.partition(b":")
    return Robot(key, secret)


def dingtalk_signature(secret: bytes, stamp: bytes) -> bytes:
    """Base64 of HMAC-SHA256 over the milliseconds, a line feed and the secret."""
    return base64.b64encode(hmac.new(secret, stamp + b"\n" + secret, hashlib.sha256).digest())

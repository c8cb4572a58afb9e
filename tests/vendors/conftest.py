"""What the tests of vendor files share: requests as a vendor would see them, made by the real renderer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from gateway.batch import Batch
from gateway.columns import TextColumn, join
from gateway.content import Variant
from gateway.core.render import Renderer, TokenGroup
from gateway.core.rendered import CutRule
from gateway.message_id import BatchAddress, encode_rows
from gateway.vendor import Requests
from gateway.verdict import Answer
from vendors import REGISTRY

#: Of every vendor, the least that it wants.
SMS = {"default": {"id": "SMS_1", "params": {"title": "{{title}}", "content": "{{body}}"}}}
SMS_PLACES = {"default": {"id": "1", "params": {"1": "{{title}}", "2": "{{body}}"}}}
THINGS = {"default": {"id": "T", "params": {"thing1": "{{title}}", "thing2": "{{body}}"}}}
SETTINGS: dict[str, dict[str, Any]] = {
    "apns": {"team_id": "T", "key_id": "K", "topic": "com.example.app", "key_file": "k"},
    "fcm": {"project_id": "p", "service_account_file": "k"},
    "huawei": {"client_id": "104000001", "client_secret_file": "k"},
    "harmony": {"project_id": "388", "account_key_file": "k"},
    "honor": {"app_id": "1044", "client_id": "c", "client_secret_file": "k"},
    "xiaomi": {"package_name": "com.example.app", "app_secret_file": "k"},
    "oppo": {"app_key_id": "ak", "master_secret_file": "k"},
    "vivo": {"app_id": 10004, "app_key_id": "ak", "app_secret_file": "k"},
    "meizu": {"app_id": "110000", "app_secret_file": "k"},
    "webhook": {"host": "hook.example.com", "secret_file": "k"},
    "ups": {"host": "ups.example.com", "secret_file": "k"},
    "aliyun_sms": {"access_key_id": "ak", "access_key_secret_file": "k", "sign_name": "Demo", "templates": SMS},
    "tencent_sms": {"secret_id": "i", "sdk_app_id": "1400", "secret_key_file": "k", "templates": SMS_PLACES},
    "wechat": {"appid": "wx1", "app_secret_file": "k", "templates": THINGS, "page": "pages/index"},
    "email": {"host": "smtp.a.b", "sender": "Shop <no-reply@a.b>", "user_name": "u", "password_file": "p"},
    "wecom": {"corpid": "ww1", "agentid": 1000002, "corp_secret_file": "k", "card_url": "https://a.b/c"},
    "dingtalk": {"app_key_id": "ding1", "agent_id": 7, "app_secret_file": "k", "card_url": "https://a.b/c"},
    "wecom_robot": {"robots_file": "k", "card_url": "https://a.b/c"},
    "dingtalk_robot": {"robots_file": "k", "card_url": "https://a.b/c"},
}
SECRET = b"secret-of-16-byte"
BORN_UNIX_MS = 1_763_700_000_000


class Seen(NamedTuple):
    """One request. rows: positions of the rows it carries. save: of a first step, its body."""

    path: str
    headers: dict[str, str]
    body: bytes
    rows: list[int]
    save: Seen | None = None


class Rendering(NamedTuple):
    requests: list[Seen]
    refused: list[tuple[list[int], str, str]]
    truncated: list[int]
    batch: Batch


def seen_of(requests: Requests, positions: list[int]) -> list[Seen]:
    paths, bodies = join(requests.path, 0, requests.n), join(requests.body, 0, requests.n)
    headers = [(name.decode(), join(value, 0, requests.n)) for name, value in requests.headers]
    bulk = requests.bulk
    ends = list(range(requests.n + 1)) if bulk is None else bulk.offsets.tolist()
    save = None if bulk is None or bulk.save is None else seen_of(bulk.save, [])[0]
    return [
        Seen(
            paths[index].decode(),
            {name: column[index].decode() for name, column in headers},
            bodies[index],
            positions[first:stop],
            save,
        )
        for index, (first, stop) in enumerate(itertools.pairwise(ends))
    ]


def render(
    vendor: Any,
    variants: Variant | Sequence[Variant],
    tokens: Sequence[str],
    *,
    variables: dict[str, list[str]] | None = None,
    authorization: bytes = b"credential",
    after_s: float = 0.0,
    may_cut: bool = True,
    first_number: int = 0,
) -> Rendering:
    """Rows with these tokens; several variants: one per row."""
    n = len(tokens)
    several = not isinstance(variants, Variant)
    address = BatchAddress(BORN_UNIX_MS, 7, 9)
    batch = Batch(
        address,
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=encode_rows(SECRET, address, np.arange(n)),
        variants=list(variants) if not isinstance(variants, Variant) else [variants],
        variant_index=np.arange(n, dtype=np.uint16) if several else None,
        variables={name: TextColumn.from_texts(column) for name, column in (variables or {}).items()},
    )
    column = TextColumn.from_texts(tokens)
    fixed = column.fixed()
    group = TokenGroup(np.arange(n), column if fixed is None else fixed)
    out = Renderer(address_secret=SECRET, rules={0: CutRule(may_cut=may_cut)}, first_number=first_number).render(
        vendor,
        batch,
        np.arange(n),
        [group],
        authorization=authorization,
        now_unix_s=BORN_UNIX_MS / 1000 + after_s,
    )
    requests, truncated = [], []
    for made in out.groups:
        requests += seen_of(made.requests, made.positions.tolist())
        truncated += made.positions[made.truncated].tolist()
    refused = [(part.positions.tolist(), part.field, part.text) for part in out.refused]
    return Rendering(requests, refused, sorted(truncated), batch)


@pytest.fixture(name="render")
def _render() -> Callable[..., Rendering]:
    return render


@pytest.fixture(scope="session")
def settings_of() -> Callable[[str], Any]:
    """The settings above of the vendor of a name."""
    return lambda name: msgspec.convert(SETTINGS[name], REGISTRY[name].settings)


@pytest.fixture(scope="session")
def vendor_of(settings_of: Callable[[str], Any]) -> Callable[[str], Any]:
    """The vendor of a name, with these settings."""
    return lambda name: REGISTRY[name].vendor(settings_of(name))


def _judged(sheet: str, classify: Callable[[str], Answer]) -> dict[str, Answer]:
    """Code -> its answer, of all codes of a sheet whose lines are a verdict and the codes that have it."""
    found: dict[str, Answer] = {}
    for line in sheet.strip().splitlines():
        verdict, *codes = line.split()
        for code in codes:
            found[code] = classify(code)
            assert found[code].verdict.name == verdict, code
    return found


@pytest.fixture(name="judged")
def _judged_sheet() -> Callable[..., dict[str, Answer]]:
    return _judged

"""Bad input, for every vendor of the registry: faults of form are refused row by row before any vendor sees them, odd
texts that are legal reach the vendor as they are, and the rest of the batch is unharmed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.render_check import Request, form, reader_of
from gateway.content import Click, Variant
from gateway.ledger import VENDOR_CHANNELS
from gateway.vendor import BulkVendor, slot_text
from gateway.verdict import Answer, Verdict
from gateway.wire.rpc import codec
from gateway.wire.rpc.messages import Submit, Texts
from gateway.wire.rpc.submit import decode_submit
from vendors import REGISTRY

#: A token of the vendor's form, where it has a strict one; number: tells them apart.
TOKEN_FORMS = {
    "aliyun_sms": "138000{:05d}",
    "tencent_sms": "+86138000{:05d}",
    "wechat": "o{:027d}",
    "email": "a.user{}@a.bc",
}
#: Whose fact sheet calls title and body required, or gives a code for their absence.
NEED_TEXTS = {"harmony", "xiaomi", "oppo", "vivo", "meizu"}
PUSH_VENDORS = sorted(
    set(REGISTRY)
    - {"webhook", "ups", "aliyun_sms", "tencent_sms", "wechat", "wecom", "dingtalk", "email"}
    - {"wecom_robot", "dingtalk_robot"}
)


#: No list, or one in JSON: these characters separate nothing there.
JOIN_NOTHING = {"fcm", "webhook", "ups"}


def token_of(name: str, number: int) -> str:
    return TOKEN_FORMS.get(name, "{:064x}").format(number)


GOOD = Variant("title", "body")
#: What stands in the payload until it is put together: no encoder writes a lone surrogate.
_SURROGATE_AT = "<surrogate>"
BAD: list[tuple[Variant, str]] = [
    (Variant("t" * 10_000_000, "b"), "title"),
    (Variant("t", _SURROGATE_AT), "body"),
    (Variant("t\x00", "b"), "title"),
    (Variant("t", "b\x07"), "body"),
    (Variant("t", "b\u202e"), "body"),
    (Variant("t", "b", collapse_id="a\r\nb"), "collapse_id"),
    (Variant("t", "b", image="javascript:alert(1)"), "image"),
    (Variant("t", "b", image="https://"), "image"),
    (Variant("t", "b", click=Click("url", "not a url")), "click"),
    (Variant("t", "b", badge=-1), "badge"),
    (Variant("t", "b", badge=100_000), "badge"),
    (Variant("t", "b", ttl_s=-1), "ttl_s"),
    (Variant("t", "b", ttl_s=10**9), "ttl_s"),
    (Variant("t", "b", data={"k": "v" * 40_000}), "data"),
]


@pytest.fixture(params=sorted(REGISTRY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def texts(rows: list[str]) -> Texts:
    raw = [row.encode() for row in rows]
    ends = np.cumsum([0, *map(len, raw)])
    return Texts(b"".join(raw), memoryview(struct.pack(f"<{len(ends)}I", *ends.tolist())))


def test_contents_with_a_fault_are_refused_row_by_row_with_their_field() -> None:
    """One door for all vendors: every second row is good, and all of those are taken."""
    contents = [GOOD, *(variant for variant, _ in BAD)]
    n = 2 * len(BAD)
    index = [0 if row % 2 == 0 else 1 + row // 2 for row in range(n)]
    payload = codec.encode(
        Submit(
            id=1,
            contents=contents,
            n=n,
            index=memoryview(struct.pack(f"<{n}H", *index)),
            device_ids=memoryview(np.random.default_rng(1).bytes(16 * n)),
        )
    )
    lone = b"\xed\xa0\x80".ljust(len(_SURROGATE_AT), b"x")
    found = decode_submit(payload.replace(_SURROGATE_AT.encode(), lone))
    assert found.source_rows is not None
    assert found.source_rows.tolist() == list(range(0, n, 2))
    assert {fault.row: fault.field.partition(".")[0] for fault in found.faults} == {
        2 * at + 1: "contents" if variant.body == _SURROGATE_AT else field for at, (variant, field) in enumerate(BAD)
    }
    assert all(fault.text and len(fault.text) < 200 for fault in found.faults)


@pytest.mark.parametrize("separator", [",", ";", " ", "\r\n", '"', "\\", "\x00"])
def test_a_token_that_would_be_two_in_a_list_is_refused_and_the_others_are_not(
    vendor_of: Callable[[str], Any], name: str, separator: str
) -> None:
    vendor, good = vendor_of(name), token_of(name, 1)
    if name in JOIN_NOTHING and separator in ",;":
        assert not vendor.check_token(good + separator)
        return
    tokens = [good, good[:5] + separator + good[5:], token_of(name, 2)]

    def check(channel: object, column: Any) -> np.ndarray[Any, Any]:
        return np.array([not vendor.check_token(row.decode("ascii", "replace")) for row in column.rows()])

    submit = Submit(id=1, contents=[GOOD], n=3, tokens=texts(tokens), vendors=[name])
    found = decode_submit(codec.encode(submit), check_tokens=check)
    assert [(fault.row, fault.field) for fault in found.faults] == [(1, "tokens")]
    assert good[:5] not in found.faults[0].text
    assert found.channels is not None
    assert found.channels.tolist() == [int(VENDOR_CHANNELS[name])] * 2


SAVED = slot_text("saved")
ODD = [
    'say "hi" \\ back\\slash /slash',
    "a&b=c+d%20e;f,g?h#i",
    "tab\tand\nlines\r\n",
    "\u200fשלום\u200e \u2067עולם\u2069 mixed",
    "👨‍👩‍👧‍👦 🇨🇳 e\u0301 क्ष \U00020bb7",
    "{{x}} {{nobody}} %s {0} \ufeff\u2028\u0085",
    "</script><b>&amp;",
]


@pytest.mark.parametrize("name", PUSH_VENDORS)
@pytest.mark.parametrize("is_shared", [True, False])
def test_odd_texts_reach_the_vendor_as_they_are(
    vendor_of: Callable[[str], Any], name: str, is_shared: bool, render: Callable[..., Any]
) -> None:
    vendor = vendor_of(name)
    tokens = [token_of(name, row) for row in range(len(ODD))]
    kind = "marketing" if name == "oppo" else "system"
    read = reader_of(name)

    def seen_in(made: Any) -> dict[str, tuple[str, str]]:
        seen = [(request.path, request.body.replace(SAVED, b"saved")) for request in made.requests]
        saves = [(request.save.path, request.save.body) for request in made.requests if request.save is not None]
        return {
            row.token: (row.title, row.body) for path, body in [*saves, *seen] for row in read(Request(path, {}, body))
        }

    if is_shared:
        for odd in ODD:
            made = render(vendor, Variant(odd, odd, class_=kind), tokens, authorization=b"CREDENTIAL")
            assert seen_in(made) == dict.fromkeys(tokens, (odd, odd))
    else:
        variables = {"a": ODD, "b": ODD[::-1]}
        made = render(
            vendor, Variant("{{a}}", "{{b}}", class_=kind), tokens, variables=variables, authorization=b"CREDENTIAL"
        )
        assert seen_in(made) == dict(zip(tokens, zip(ODD, ODD[::-1], strict=True), strict=True))
        assert not made.truncated


@pytest.mark.parametrize("blank", ["", " ", "\u3000\n", "\u200a"])
@pytest.mark.parametrize("field", ["title", "body"])
def test_a_text_that_says_nothing_is_refused_where_the_vendor_needs_one_and_harms_no_other_row(
    vendor_of: Callable[[str], Any], name: str, field: str, blank: str, render: Callable[..., Any]
) -> None:
    vendor = vendor_of(name)
    good = ["one", "two", "three", "four"]
    values = {"title": good, "body": good} | {field: ["one", blank, "three", blank]}
    tokens = [token_of(name, row) for row in range(4)]
    rows = [[1, 3]] if name in NEED_TEXTS else []
    wanted = [(part, field, f"{field} is empty ({name})") for part in rows]
    made = render(vendor, Variant("{{title}}", "{{body}}"), tokens, variables=values)
    assert made.refused == wanted
    assert sorted(row for request in made.requests for row in request.rows) == ([0, 2] if rows else [0, 1, 2, 3])
    variants = [Variant(title, body) for title, body in zip(values["title"], values["body"], strict=True)]
    made = render(vendor, variants, tokens)
    assert made.refused == wanted
    # One content for all rows.
    made = render(vendor, variants[1], tokens)
    assert [(part, where) for part, where, _ in made.refused] == ([([0, 1, 2, 3], field)] if rows else [])


EXTREMES = [
    Variant("t", "b", ttl_s=0),
    Variant("t", "b", ttl_s=40 * 86400),
    Variant("t", "b", badge=0),
    Variant("t", "b", badge=99_999),
    Variant("t", "b", collapse_id="订单" * 10),
    Variant("t", "b", collapse_id="x" * 64, category="c" * 128, sound="s" * 128),
    Variant("t", "b", data={f"k{number}": number for number in range(11)}),
    Variant("t", "b", data={f"k{number}": "v" * 400 for number in range(64)}),
    Variant("t", "b", click=Click("intent", "intent:" + "x" * 2000)),
    Variant("t", "b", click=Click("payload", "\u200f" * 600), image="https://example.com/" + "i" * 2000),
    Variant("t" * 65_536, "b" * 65_536),
]


@pytest.mark.parametrize("extreme", range(len(EXTREMES)))
def test_what_the_door_lets_in_is_sent_within_the_limits_or_refused_with_field_and_text(
    vendor_of: Callable[[str], Any], name: str, extreme: int, render: Callable[..., Any]
) -> None:
    vendor, tokens = vendor_of(name), [token_of(name, row) for row in range(3)]
    made = render(vendor, EXTREMES[extreme], tokens)
    refused = [row for rows, field, text in made.refused for row in rows if field and text]
    assert sorted([*refused, *(row for request in made.requests for row in request.rows)]) == [0, 1, 2]
    # Beside others they are refused alone.
    made = render(vendor, [GOOD, EXTREMES[extreme], GOOD], tokens)
    assert {0, 2} <= {row for request in made.requests for row in request.rows}
    for rows, field, text in made.refused:
        assert (rows, bool(field), bool(text)) == ([1], True, True)


def test_eleven_custom_pairs_are_too_many_for_xiaomi_and_ten_are_not(
    vendor_of: Callable[[str], Any], render: Callable[..., Any]
) -> None:
    vendor = vendor_of("xiaomi")
    variants = [Variant("t", "b", data={f"k{number}": "v" for number in range(count)}) for count in (10, 11, 10)]
    made = render(vendor, variants, ["aa", "bb", "cc"])
    assert made.refused == [([1], "data", "data has 11 pairs, limit 10 (xiaomi)")]
    assert sorted(row for request in made.requests for row in request.rows) == [0, 2]
    assert "messages" in form(made.requests[0].body)


def test_a_ttl_stays_in_what_the_vendor_takes(vendor_of: Callable[[str], Any], render: Callable[..., Any]) -> None:
    """Time to live of the shortest and the longest message, in each vendor's unit (fact sheets, sections "TTL")."""
    paths: dict[str, tuple[str, list[Any]]] = {
        "huawei": ("message.android.ttl", ["1s", "1296000s"]),
        "harmony": ("pushOptions.ttl", [1, 1_296_000]),
        "honor": ("android.ttl", ["1s", "1296000s"]),
        "vivo": ("timeToLive", [60, 86_400]),
        "fcm": ("message.android.ttl", ["0s", "2419200s"]),
    }
    for vendor_name, (path, wanted) in paths.items():
        for ttl_s, value in zip((0, 40 * 86400), wanted, strict=True):
            made = render(vendor_of(vendor_name), Variant("t", "b", ttl_s=ttl_s), ["ab" * 32])
            found: Any = msgspec.json.decode(made.requests[0].body)
            for key in path.split("."):
                found = found[key]
            assert found == value, vendor_name


WORDS = ["code", "result", "data", "errcode", "Code", "Response"]
bodies = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda below: (
            st.lists(below, max_size=3)
            | st.dictionaries(
                st.sampled_from(["code", "result", "data", "errcode", "Code", "Response"]), below, max_size=3
            )
        ),
        max_leaves=8,
    ).map(lambda tree: json.dumps(tree).encode("utf-8", "replace")),
)
headers = st.dictionaries(
    st.sampled_from([b"retry-after", b"date", b"content-type"]), st.binary(max_size=9), max_size=2
)


@given(vendor_name=st.sampled_from(sorted(REGISTRY)), status=st.integers(0, 999), head=headers, body=bodies)
def test_arbitrary_bytes_as_an_answer_never_raise(
    vendor_of: Callable[[str], Any], vendor_name: str, status: int, head: dict[bytes, bytes], body: bytes
) -> None:
    vendor = vendor_of(vendor_name)
    assert isinstance(vendor.classify(status, head, body).verdict, Verdict)
    if getattr(vendor, "is_bulk", False):
        bulk = cast(BulkVendor, vendor)
        assert isinstance(bulk.judge(status, head, body, is_distinct=status % 2 == 0).rest.verdict, Verdict)
        assert isinstance(bulk.read_saved(status, head, body), str | Answer)

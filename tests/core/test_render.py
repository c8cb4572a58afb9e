"""Rendering against a plain twin: one row at a time, `json.dumps`, graphemes dropped one by one."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import Batch
from gateway.columns import TextColumn, join
from gateway.content import Click, Variant
from gateway.core.render import Rendered, Renderer, TokenGroup
from gateway.core.rendered import CutRule
from gateway.ledger import Reason
from gateway.message_id import BatchAddress, encode_rows
from gateway.vendor import FieldLimit, Limits
from vendors.apns import Apns
from vendors.apns import Settings as ApnsSettings
from vendors.fcm import Fcm
from vendors.fcm import Settings as FcmSettings

NOW_UNIX_S = 1_763_700_100.25
BORN_UNIX_MS = 1_763_700_000_999
AUTHORIZATION = b"bearer value"
MARK = "…"
LIMITS = Limits(4096)

NASTY = [
    *'ab "\\\n\x01\x7f',
    "{",
    "{{x}}",
    "{{nobody}}",
    "}}",
    "中",
    "，",
    "e\u0301",
    "👨‍👩‍👧",
    "🇨🇳",
    "👍🏽",
    "한",
    "क्ष",
]
texts = st.lists(st.sampled_from(NASTY), max_size=30).map("".join)
names = st.text(st.sampled_from('ab"\\中'), min_size=1, max_size=5)


# -- the twin


class Row(NamedTuple):
    """One row as the twin sees it."""

    variant: Variant
    variables: dict[str, str]
    token: str
    message_id: str


class Sent(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes
    was_cut: bool


class Refused(NamedTuple):
    reason: Reason


def put_in(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\{\{([A-Za-z0-9_.-]{1,64})\}\}", lambda found: variables.get(found[1], found[0]), text)


def filled(value: Any, row: Row) -> Any:
    return put_in(value, row.variables) if isinstance(value, str) else value


def click_of(row: Row) -> dict[str, str] | None:
    click = row.variant.click
    if click is None:
        return None
    return {"type": click.type} | ({"value": put_in(click.value, row.variables)} if click.value else {})


def apns_tree(row: Row, title: str, body: str) -> dict[str, Any]:
    variant = row.variant
    aps: dict[str, Any] = {"alert": {"title": title, "body": body}}
    if variant.badge is not None:
        aps["badge"] = variant.badge
    aps["sound"] = variant.sound or "default"
    if variant.category:
        aps["category"] = variant.category
    tree: dict[str, Any] = {"aps": aps, "message_id": row.message_id}
    if variant.image:
        aps["mutable-content"] = 1
        tree["image"] = variant.image
    if click_of(row):
        tree["click"] = click_of(row)
    for key, value in (variant.data or {}).items():
        tree[key] = filled(value, row)
    return tree


def apns_headers(row: Row) -> dict[str, str]:
    variant = row.variant
    headers = {
        "authorization": AUTHORIZATION.decode(),
        "apns-id": row.message_id,
        "apns-push-type": "alert",
        "apns-topic": "com.example.app",
        "apns-expiration": str(BORN_UNIX_MS // 1000 + variant.ttl_s) if variant.ttl_s else "0",
        "apns-priority": "10" if variant.priority == "high" else "5",
        "content-type": "application/json",
    }
    if variant.collapse_id:
        headers["apns-collapse-id"] = variant.collapse_id
    return headers


def fcm_tree(row: Row, title: str, body: str) -> dict[str, Any]:
    variant = row.variant
    expires = BORN_UNIX_MS // 1000 + variant.ttl_s
    notification = {"title": title, "body": body} | ({"image": variant.image} if variant.image else {})
    data = {"message_id": row.message_id}
    if variant.click is not None:
        data["click_type"] = variant.click.type
        if variant.click.value:
            data["click_value"] = put_in(variant.click.value, row.variables)
    for key, value in (variant.data or {}).items():
        data[key] = put_in(value, row.variables) if isinstance(value, str) else json.dumps(value)
    shown: dict[str, Any] = {"sound": variant.sound or "default"}
    headers = {"apns-priority": "10" if variant.priority == "high" else "5", "apns-expiration": "0"}
    if variant.ttl_s:
        headers["apns-expiration"] = str(expires)
    aps: dict[str, Any] = {"sound": variant.sound or "default"}
    android: dict[str, Any] = {
        "priority": variant.priority.upper(),
        "ttl": f"{min(max(0, int(expires - NOW_UNIX_S)), 2_419_200)}s",
        "notification": shown,
    }
    if variant.category:
        shown["channel_id"] = aps["category"] = variant.category
    if variant.badge is not None:
        shown["notification_count"] = aps["badge"] = variant.badge
    if variant.click is not None and variant.click.type == "intent":
        shown["click_action"] = put_in(variant.click.value, row.variables)
    if variant.collapse_id:
        android["collapse_key"] = shown["tag"] = headers["apns-collapse-id"] = variant.collapse_id
    if variant.image:
        aps["mutable-content"] = 1
    section: dict[str, Any] = {"headers": headers, "payload": {"aps": aps}}
    if variant.image:
        section["fcm_options"] = {"image": variant.image}
    message = {"token": row.token, "notification": notification, "data": data, "android": android, "apns": section}
    return {"message": message}


def fcm_headers(row: Row) -> dict[str, str]:
    return {"authorization": AUTHORIZATION.decode(), "content-type": "application/json; charset=UTF-8"}


def downlink_tree(row: Row, title: str, body: str) -> dict[str, Any]:
    variant = row.variant
    tree: dict[str, Any] = {"message_id": row.message_id, "type": "notification", "title": title, "body": body}
    if variant.data:
        tree["data"] = {key: filled(value, row) for key, value in variant.data.items()}
    if click_of(row):
        tree["click"] = click_of(row)
    for key in ("image", "badge", "sound", "collapse_id", "category"):
        if getattr(variant, key) not in ("", None):
            tree[key] = getattr(variant, key)
    return tree


def plain_length(text: str, unit: str) -> int:
    if unit == "half_width":
        return sum(1 if character < "\x80" else 2 for character in text)
    return len(text) if unit == "code_points" else len(text.encode())


def plain_shorter(text: str, fits: Callable[[str], bool], mark: str = MARK) -> tuple[str, bool]:
    if fits(text):
        return text, False
    graphemes = regex.findall(r"\X", text)
    while graphemes:
        graphemes.pop()
        if fits("".join(graphemes) + mark):
            return "".join(graphemes) + mark, True
    return "", True


def mark_of(limit: FieldLimit | None) -> str:
    return MARK if limit is None or limit.has_mark else ""


def says_nothing(row: Row, limits: Limits) -> bool:
    texts = [put_in(text, row.variables) for text in (row.variant.title, row.variant.body)]
    return limits.needs_texts and not all(text.strip() for text in texts)


def twin(
    row: Row, tree: Callable[[Row, str, str], dict[str, Any]], limits: Limits, may_cut: bool
) -> tuple[dict[str, Any], bool] | None:
    """The body's tree and whether a text was cut, or None when the row is too long."""

    def fits(title: str, body: str) -> bool:
        size = len(json.dumps(tree(row, title, body), ensure_ascii=False, separators=(",", ":")).encode())
        return size <= limits.payload_bytes_max

    def within(limit: FieldLimit | None) -> Callable[[str], bool]:
        return lambda text: limit is None or plain_length(text, limit.unit) <= limit.max

    title, body = put_in(row.variant.title, row.variables), put_in(row.variant.body, row.variables)
    if says_nothing(row, limits):
        return None
    if not may_cut:
        good = within(limits.title)(title) and within(limits.body)(body) and fits(title, body)
        return (tree(row, title, body), False) if good else None
    title, title_cut = plain_shorter(title, within(limits.title), mark_of(limits.title))
    body, body_cut = plain_shorter(body, within(limits.body), mark_of(limits.body))
    was_cut = title_cut or body_cut
    if not fits(title, body):
        was_cut = True
        if fits(title, ""):
            body, _ = plain_shorter(body, lambda shorter: fits(title, shorter))
        else:
            body = ""
            title, _ = plain_shorter(title, lambda shorter: fits(shorter, ""))
        if not fits(title, body) or not (title or body):
            return None
    return tree(row, title, body), was_cut


# -- making batches


class LimitedApns(Apns):
    """APNs with limits low enough for short texts to reach them."""

    own_limits = Limits(4096)

    def limits(self, variant: Variant) -> Limits:
        return self.own_limits


class LimitedFcm(Fcm):
    own_limits = Limits(4096)

    def limits(self, variant: Variant) -> Limits:
        return self.own_limits


def apns(limits: Limits = LIMITS) -> Apns:
    vendor = LimitedApns(ApnsSettings("TEAM", "KEY", "com.example.app", key_file="key.p8"))
    vendor.own_limits = limits
    return vendor


def fcm(limits: Limits = LIMITS) -> Fcm:
    vendor = LimitedFcm(FcmSettings("my-project", service_account_file="key.json"))
    vendor.own_limits = limits
    return vendor


def make_batch(
    n: int,
    variants: list[Variant],
    variant_index: list[int] | None = None,
    variables: dict[str, list[str]] | None = None,
) -> Batch:
    address = BatchAddress(BORN_UNIX_MS, 7, 9)
    return Batch(
        address,
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=encode_rows(b"secret-of-16-byte", address, np.arange(n)),
        variants=variants,
        variant_index=None if variant_index is None else np.array(variant_index, np.uint16),
        variables={name: TextColumn.from_texts(column) for name, column in (variables or {}).items()},
    )


def row_of(batch: Batch, row: int, token: str) -> Row:
    variables = {name: column.row(row).decode() for name, column in batch.variables.items()}
    return Row(batch.variant_of(row), variables, token, str(uuid.UUID(bytes=batch.message_ids[row].tobytes())))


def sent_rows(rendered: Rendered) -> dict[int, Sent]:
    out: dict[int, Sent] = {}
    for positions, requests, truncated in rendered.groups:
        n = requests.n
        assert len(positions) == len(truncated) == n
        paths = join(requests.path, 0, n)
        headers = [(name.decode(), join(value, 0, n)) for name, value in requests.headers]
        for index, (position, path, body) in enumerate(
            zip(positions.tolist(), paths, join(requests.body, 0, n), strict=True)
        ):
            assert position not in out
            assert len({name for name, _ in headers}) == len(headers)
            fields = {name: column[index].decode() for name, column in headers}
            out[position] = Sent(path.decode(), fields, body, bool(truncated[index]))
    return out


limits_small = st.builds(
    Limits,
    st.sampled_from([150, 250, 300, 400, 600, 700, 4096]),
    st.none() | st.builds(FieldLimit, st.sampled_from(["code_points", "half_width", "utf8_bytes"]), st.integers(0, 20)),
    st.none() | st.builds(FieldLimit, st.sampled_from(["code_points", "half_width", "utf8_bytes"]), st.integers(0, 20)),
    st.just(True),
    st.booleans(),
)
scalars = st.one_of(texts, st.integers(-9, 9), st.booleans())
variants = st.builds(
    Variant,
    title=texts,
    body=texts,
    data=st.none() | st.dictionaries(names, scalars, max_size=2),
    ttl_s=st.sampled_from([0, 60, 7200, 40 * 86400]),
    category=st.sampled_from(["", "ORDER", 'a"b']),
    collapse_id=st.sampled_from(["", "order-1", 'o"2\\', "订单"]),
    badge=st.none() | st.integers(0, 99),
    sound=st.sampled_from(["", "ring.caf"]),
    image=st.sampled_from(["", "https://cdn.example.com/a.png"]),
    click=st.none() | st.builds(Click, st.sampled_from(["url", "intent", "app"]), texts),
    priority=st.sampled_from(["high", "normal"]),
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    n = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["shared", "template", "few", "many"]))
    count = {"shared": 1, "template": 1, "few": 2, "many": min(n, 12)}[kind]
    drawn = draw(st.lists(variants, min_size=count, max_size=count))
    index = None
    if kind in ("few", "many"):
        index = draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n))
    columns = {}
    if kind == "template" or draw(st.booleans()):
        columns = {name: draw(st.lists(texts, min_size=n, max_size=n)) for name in ("x", "title")}
        drawn = [msgspec.structs.replace(variant, title="{{title}}" + variant.title) for variant in drawn]
    return make_batch(n, drawn, index, columns)


@st.composite
def bursts(draw: st.DrawFn) -> tuple[Batch, list[int], list[str], list[TokenGroup]]:
    """A batch, rows of it, a token for each, and the same tokens in groups of random order and shape."""
    batch = draw(batches())
    rows = draw(st.lists(st.integers(0, batch.n - 1), min_size=1, max_size=batch.n, unique=True))
    lengths = draw(st.sampled_from([[64], [64, 70], [140, 150, 163]]))
    tokens = [f"{position:02x}" * 100 for position in range(len(rows))]
    tokens = [token[: draw(st.sampled_from(lengths))] for token in tokens]
    order = draw(st.permutations(range(len(rows))))
    at = draw(st.integers(0, len(rows)))
    groups = []
    for part in (order[:at], order[at:]):
        column = TextColumn.from_texts([tokens[position] for position in part])
        fixed = column.fixed()
        groups.append(TokenGroup(np.array(part, np.intp), column if fixed is None else fixed))
    return batch, rows, tokens, groups


def check_against_twin(
    rendered: Rendered,
    rows: list[Row],
    tree: Callable[[Row, str, str], dict[str, Any]],
    headers: Callable[[Row], dict[str, str]],
    path: Callable[[Row], str],
    limits: Limits,
    may_cut: bool,
) -> None:
    sent = sent_rows(rendered)
    refused = {position: group.reason for group in rendered.refused for position in group.positions.tolist()}
    assert sorted([*sent, *refused]) == list(range(len(rows)))
    for position, row in enumerate(rows):
        expected = twin(row, tree, limits, may_cut)
        if expected is None:
            is_blank = says_nothing(row, limits)
            assert refused[position] is (Reason.CONTENT_REFUSED if is_blank else Reason.CONTENT_TOO_LONG)
            continue
        body, was_cut = expected
        got = sent[position]
        assert json.loads(got.body) == body
        assert len(got.body) == len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
        assert got.was_cut == was_cut
        assert got.path == path(row)
        assert got.headers == headers(row)


@given(bursts(), limits_small, st.booleans())
def test_apns_requests_agree_with_the_plain_twin(burst: Any, limits: Limits, may_cut: bool) -> None:
    batch, rows, tokens, groups = burst
    rendered = Renderer(rules={0: CutRule(may_cut=may_cut)}).render(
        apns(limits), batch, np.array(rows), groups, authorization=AUTHORIZATION, now_unix_s=NOW_UNIX_S
    )
    plain = [row_of(batch, row, token) for row, token in zip(rows, tokens, strict=True)]
    check_against_twin(rendered, plain, apns_tree, apns_headers, lambda row: f"/3/device/{row.token}", limits, may_cut)


@given(bursts(), limits_small, st.booleans())
def test_fcm_requests_agree_with_the_plain_twin(burst: Any, limits: Limits, may_cut: bool) -> None:
    batch, rows, tokens, groups = burst
    limits = limits._replace(payload_bytes_max=limits.payload_bytes_max + 400)
    rendered = Renderer(rules={0: CutRule(may_cut=may_cut)}).render(
        fcm(limits), batch, np.array(rows), groups, authorization=AUTHORIZATION, now_unix_s=NOW_UNIX_S
    )
    plain = [row_of(batch, row, token) for row, token in zip(rows, tokens, strict=True)]
    check_against_twin(
        rendered, plain, fcm_tree, fcm_headers, lambda row: "/v1/projects/my-project/messages:send", limits, may_cut
    )


@given(batches(), st.sampled_from([120, 200, 300, 16384]), st.booleans())
def test_downlink_payloads_agree_with_the_plain_twin(batch: Batch, limit: int, may_cut: bool) -> None:
    renderer = Renderer(rules={0: CutRule(may_cut=may_cut)}, downlink_payload_bytes_max=limit)
    rendered = renderer.render_downlink(batch, np.arange(batch.n), now_unix_s=NOW_UNIX_S)
    seen = {position for group in rendered.refused for position in group.positions.tolist()}
    for positions, payload, truncated in rendered.groups:
        for position, body, was_cut in zip(
            positions.tolist(), join(payload, 0, len(positions)), truncated.tolist(), strict=True
        ):
            assert position not in seen
            seen.add(position)
            assert (json.loads(body), was_cut) == twin(
                row_of(batch, position, ""), downlink_tree, Limits(limit), may_cut
            )
    assert seen == set(range(batch.n))
    for group in rendered.refused:
        for position in group.positions.tolist():
            assert twin(row_of(batch, position, ""), downlink_tree, Limits(limit), may_cut) is None


# -- examples


def render_one(vendor: Apns | Fcm, variant: Variant, **options: Any) -> Rendered:
    batch = make_batch(1, [variant])
    tokens = [TokenGroup(np.array([0]), np.frombuffer(b"ab" * 32, np.uint8).reshape(1, 64))]
    return Renderer(**options).render(
        vendor, batch, np.array([0]), tokens, authorization=AUTHORIZATION, now_unix_s=NOW_UNIX_S
    )


def test_shared_content_is_columns_of_fixed_width_only() -> None:
    n = 1000
    batch = make_batch(n, [Variant(title="Order shipped", body="您的包裹已发出", collapse_id="o")])
    tokens = np.frombuffer(np.random.default_rng(1).bytes(32 * n).hex().encode(), np.uint8).reshape(n, 64)
    rendered = Renderer().render(
        apns(),
        batch,
        np.arange(n),
        [TokenGroup(np.arange(n), tokens)],
        authorization=AUTHORIZATION,
        now_unix_s=NOW_UNIX_S,
    )
    (group,) = rendered.groups
    request = group.requests
    for pieces in (request.path, request.body, *(value for _, value in request.headers)):
        assert not any(isinstance(piece, TextColumn) for piece in pieces)
    constant = {name for name, value in request.headers if len(value) == 1 and isinstance(value[0], bytes)}
    assert constant == {name for name, _ in request.headers} - {b"apns-id"}
    assert request.authority == b"api.push.apple.com"


def test_single_messages_of_one_shape_share_one_group() -> None:
    n = 30
    batch = make_batch(
        n,
        [Variant(title=f"t{i}", body="b" * i, collapse_id=f"o{i}", ttl_s=60 + i, data={"i": i}) for i in range(n)],
        list(range(n)),
    )
    tokens = np.full((n, 64), ord("a"), np.uint8)
    rendered = Renderer().render(
        apns(), batch, np.arange(n), [TokenGroup(np.arange(n), tokens)], authorization=b"b", now_unix_s=NOW_UNIX_S
    )
    (group,) = rendered.groups
    headers = dict(group.requests.headers)
    (expiration,) = headers[b"apns-expiration"]
    assert isinstance(expiration, np.ndarray)
    assert expiration.shape == (n, 10)


def test_numbers_that_are_equal_in_python_do_not_share_a_template() -> None:
    batch = make_batch(3, [Variant("t", "b", data={"k": value}) for value in (1, True, 1.0)], [0, 1, 2])
    tokens = np.full((3, 64), ord("a"), np.uint8)
    rendered = Renderer().render(
        apns(), batch, np.arange(3), [TokenGroup(np.arange(3), tokens)], authorization=b"b", now_unix_s=NOW_UNIX_S
    )
    sent = sent_rows(rendered)
    assert [re.search(rb'"k":([^}]*)', sent[row].body)[1] for row in range(3)] == [b"1", b"true", b"1.0"]  # type: ignore[index]


def test_templates_are_kept_by_everything_but_texts_ttl_and_collapse_id() -> None:
    renderer = Renderer(templates_max=2)
    vendor = apns()
    tokens = [TokenGroup(np.array([0]), np.full((1, 64), ord("a"), np.uint8))]

    def render(variant: Variant) -> dict[str, int]:
        renderer.render(
            vendor, make_batch(1, [variant]), np.array([0]), tokens, authorization=b"b", now_unix_s=NOW_UNIX_S
        )
        return renderer.statistics()

    assert render(Variant("a", "b", collapse_id="x"))["template_misses"] == 1
    assert render(Variant("c", "d", collapse_id="y", ttl_s=1))["template_hits"] == 1
    assert render(Variant("c", "d", badge=1))["template_misses"] == 2
    assert render(Variant("c", "d", badge=2)) == {"templates": 2, "template_hits": 1, "template_misses": 3}


def test_a_ragged_column_of_tokens_gets_as_much_text_as_each_token_leaves() -> None:
    body = "正文" * 1000
    batch = make_batch(3, [Variant("t", body)])
    tokens = TextColumn.from_texts(["a" * 100, "b" * 160, "c" * 100])
    rendered = Renderer().render(
        fcm(), batch, np.arange(3), [TokenGroup(np.arange(3), tokens)], authorization=b"b", now_unix_s=NOW_UNIX_S
    )
    sent = sent_rows(rendered)
    assert all(4096 - 6 < len(sent[row].body) <= 4096 for row in range(3))


@pytest.mark.parametrize(
    ("variant", "reason", "field", "text"),
    [
        (Variant("t", "b", data={"aps": "x"}), Reason.CONTENT_REFUSED, "data", "data key aps is taken (apns)"),
        (
            Variant("t", "b", data={"x": "y" * 4096}),
            Reason.CONTENT_TOO_LONG,
            "payload",
            "payload without texts is 4213 bytes, limit 4096 (apns)",
        ),
    ],
)
def test_a_variant_that_cannot_be_sent_is_refused_with_field_and_text(
    variant: Variant, reason: Reason, field: str, text: str
) -> None:
    rendered = render_one(apns(), variant)
    assert not rendered.groups
    (refused,) = rendered.refused
    assert (refused.positions.tolist(), refused.reason, refused.field, refused.text) == ([0], reason, field, text)


def test_without_cutting_an_over_long_row_is_refused_with_its_size() -> None:
    rendered = render_one(apns(), Variant("t", "b" * 5000), rules={0: CutRule(may_cut=False)})
    (refused,) = rendered.refused
    assert refused.reason is Reason.CONTENT_TOO_LONG
    assert refused.text == "payload is 5111 bytes, limit 4096 (apns)"
    rendered = render_one(
        apns(Limits(4096, FieldLimit("half_width", 40))), Variant("订" * 21, "b"), rules={0: CutRule(may_cut=False)}
    )
    assert rendered.refused[0].text == "title is 42 half-width units, limit 40 (apns)"


def test_another_port_is_part_of_the_authority() -> None:
    vendor = Apns(ApnsSettings("T", "K", "com.example.app", key_file="k", host="127.0.0.1", port=2197))
    assert render_one(vendor, Variant("t", "b")).groups[0].requests.authority == b"127.0.0.1:2197"


def test_no_rows_and_no_tokens_render_to_nothing() -> None:
    batch = make_batch(1, [Variant("t", "b")])
    none = np.zeros(0, np.intp)
    rendered = Renderer().render(
        apns(),
        batch,
        none,
        [TokenGroup(none, np.zeros((0, 64), np.uint8))],
        authorization=b"b",
        now_unix_s=NOW_UNIX_S,
    )
    assert rendered == Rendered([], [])
    assert Renderer().render_downlink(batch, none, now_unix_s=NOW_UNIX_S).groups == []

"""The machines of the simulators without I/O: faults, rates, fates, rows, clock, configuration, TLS material."""

from __future__ import annotations

import hashlib
import json
import math
import random
import ssl
import tomllib
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from bench.simulators import fault_kinds as kinds
from bench.simulators.clock import ADVANCE_S_MAX, Clock
from bench.simulators.config import SimulatorsConfig, read_config
from bench.simulators.credentials import make_apns_key, make_service_account
from bench.simulators.fates import Fate, Fates
from bench.simulators.faults import FAULTS_MAX, FaultScript, Mode
from bench.simulators.rate import DeviceWindow, TokenBucket
from bench.simulators.received import BINARY_ROW, Message, Received, digest_of
from bench.simulators.tls import make_tls_files

CONFIG = Path(__file__).parents[2] / "configs" / "simulators.toml"


def _script() -> FaultScript:
    return FaultScript(random.Random(7), Counter())


# ---- faults


def test_fault_is_in_force_from_after_s_for_for_s():
    script = _script()
    script.arm(kinds.Throttle(after_s=10, for_s=5), now=100)
    hits = [script.on_request("send", now).instead is not None for now in (100, 109.9, 110, 114.9, 115)]
    assert hits == [False, False, True, True, False]
    assert script.statistics(115) == []


def test_fault_hits_so_many_requests():
    script = _script()
    script.arm(kinds.RefusedStream(for_requests=3), now=0)
    assert [script.on_request("send", 0).instead is not None for _ in range(5)] == [True] * 3 + [False] * 2


@given(st.floats(0, 1), st.integers(0, 2**32))
def test_fault_share_is_about_its_share(share, seed):
    script = FaultScript(random.Random(seed), Counter())
    script.arm(kinds.Drop(share=share), now=0)
    n_hit = sum(script.on_request("send", 0).is_dropped for _ in range(1_000))
    assert abs(n_hit - 1_000 * share) <= 5 * math.sqrt(250) + 1


def test_fault_applies_to_its_calls_only():
    script = _script()
    script.arm(kinds.Throttle(applies_to="oauth"), now=0)
    assert script.on_request("send", 0).instead is None
    assert script.on_request("oauth", 0).instead is not None


def test_faults_that_replace_the_answer_exclude_each_other_and_others_combine():
    script = _script()
    script.arm(kinds.Throttle(for_requests=1), now=0)
    script.arm(kinds.ResetStream(for_requests=1), now=0)
    script.arm(kinds.Latency(ms=10), now=0)
    script.arm(kinds.Latency(ms=5), now=0)
    script.arm(kinds.Double(), now=0)
    first, second, third = (script.on_request("send", 0) for _ in range(3))
    assert isinstance(first.instead, kinds.Throttle)
    assert isinstance(second.instead, kinds.ResetStream)
    assert third.instead is None
    assert [plan.latency_s for plan in (first, second, third)] == pytest.approx([0.015] * 3)
    assert third.is_doubled


def test_fault_modes_hold_and_tell_their_deadlines():
    script = _script()
    script.arm(kinds.StreamLimit(limit=5), now=0)
    script.arm(kinds.StreamLimit(limit=2, after_s=1, for_s=2), now=0)
    script.arm(kinds.StopReading(for_s=4), now=0)
    assert script.mode(0) == Mode(stream_limit=5, is_reading_stopped=True)
    assert script.next_deadline(0) == 1
    assert script.mode(1) == Mode(stream_limit=2, is_reading_stopped=True)
    assert script.next_deadline(1) == 3
    assert script.mode(3) == Mode(stream_limit=5, is_reading_stopped=True)
    assert script.next_deadline(3) == 4
    assert script.mode(4) == Mode(stream_limit=5)
    assert script.next_deadline(4) is None


def test_fault_is_disarmed_by_its_id_or_with_all_others():
    script = _script()
    first = script.arm(kinds.Drop(), now=0)
    script.arm(kinds.Double(), now=0)
    assert script.disarm(first) == 1
    assert script.disarm(first) == 0
    assert [line["fault"]["kind"] for line in script.statistics(0)] == ["double"]
    assert script.disarm(None) == 1


def test_faults_have_a_limit():
    script = _script()
    for _ in range(FAULTS_MAX):
        script.arm(kinds.Drop(), now=0)
    with pytest.raises(ValueError, match="limit 64"):
        script.arm(kinds.Drop(), now=0)


@given(st.sampled_from(["fixed", "uniform", "lognormal"]), st.floats(0, 500), st.floats(0, 500), st.floats(0, 50))
def test_latency_is_within_its_bounds(distribution, ms, more, jitter_ms):
    script = _script()
    fault = kinds.Latency(distribution=distribution, ms=ms, ms_max=ms + more, jitter_ms=jitter_ms)
    script.arm(fault, now=0)
    drawn = [script.on_request("send", 0).latency_s * 1_000 for _ in range(50)]
    least = 0 if distribution == "lognormal" else ms
    assert all(least - 1e-6 <= value <= ms + more + 1e-6 for value in drawn)


def test_lognormal_latency_has_its_median():
    script = _script()
    script.arm(kinds.Latency(distribution="lognormal", ms=60, sigma=0.5), now=0)
    drawn = sorted(script.on_request("send", 0).latency_s * 1_000 for _ in range(4_001))
    assert 55 < drawn[2_000] < 65
    assert drawn[-40] > 150  # a tail


@pytest.mark.parametrize(
    "fault",
    [
        kinds.Drop(share=1.5),
        kinds.Drop(for_s=-1),
        kinds.Drop(for_requests=0),
        kinds.Latency(ms=-1),
        kinds.Latency(distribution="uniform", ms=5),
        kinds.Latency(distribution="uniform", ms=5, ms_max=4),
        kinds.Errors(mix=[]),
        kinds.Errors(mix=[kinds.ErrorShare(share=0.6, status=500, reason="x")] * 2),
        kinds.Errors(mix=[kinds.ErrorShare(share=1, status=201, reason="x")]),
        kinds.Drop(row_share=1.5),
        kinds.Double(row_share=-0.1),
        kinds.StreamLimit(limit=-1),
        kinds.StopReading(for_requests=1),
        kinds.Windows(initial=2**31),
        kinds.ResetStream(code=-1),
    ],
)
def test_fault_that_makes_no_sense_is_refused(fault):
    with pytest.raises(ValueError):
        _script().arm(fault, now=0)


# ---- rates


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 20), st.floats(1, 20))
def test_token_bucket_never_gives_more_than_rate_and_burst(pauses, rate, burst):
    bucket = TokenBucket(rate, burst, now=0)
    now, n_taken = 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        n_taken += wait_s == 0
        assert n_taken <= burst + rate * now + 1e-6
        assert wait_s <= 1 / rate + 1e-6


def test_token_bucket_without_a_rate_never_refuses():
    assert {TokenBucket(0, 0, now=0).take(0) for _ in range(100)} == {0.0}


def test_device_window_counts_each_device_and_forgets_at_its_limit():
    window = DeviceWindow(limit=2, window_s=60, devices_max=2)
    assert [window.take("a", 0) for _ in range(3)] == [0, 0, 60]
    assert window.take("b", 59) == 0
    assert window.take("a", 59) == 1
    assert window.take("c", 59) == 0  # no room: all are forgotten
    assert (window.take("a", 59), window.forgotten_windows) == (0, 1)
    assert window.take("a", 60) == 0


# ---- fates


def test_fates_named_tokens_win_over_prefixes_and_prefixes_over_shares():
    fates = Fates(
        [Fate(fate="A", tokens=["aa1"]), Fate(fate="B", prefixes=["aa"]), Fate(fate="C", share=1)],
        frozenset("ABC"),
    )
    assert [fates.of(token).fate for token in ("aa1", "aa2", "bb")] == ["A", "B", "C"]


def test_fates_shares_are_neighbours():
    fates = Fates([Fate(fate="A", share=0.3), Fate(fate="B", share=0.3)], frozenset("AB"))
    counted = Counter(None if (one := fates.of(f"token {index}")) is None else one.fate for index in range(3_000))
    assert all(abs(counted[name] - share * 3_000) < 130 for name, share in (("A", 0.3), ("B", 0.3), (None, 0.4)))


@pytest.mark.parametrize("fates", [[Fate(fate="X")], [Fate(fate="A", share=2)], [Fate(fate="A", share=0.6)] * 2])
def test_fates_that_make_no_sense_are_refused(fates):
    with pytest.raises(ValueError):
        Fates(fates, frozenset("A"))


# ---- rows

_messages = st.builds(
    Message,
    st.sampled_from([bytes([value]) * 16 for value in range(5)]),
    st.sampled_from(["token 1", "token 2"]),
    st.text(max_size=5),
    st.text(max_size=5),
)


@given(st.lists(_messages, max_size=30), st.integers(1, 5), st.booleans())
def test_received_rows_agree_with_a_plain_dict(messages, rows_max, keep_texts):
    received = Received(rows_max=rows_max, keep_texts=keep_texts, texts_bytes_max=40)
    first: dict[bytes, Message] = {}
    copies: Counter[bytes] = Counter()
    for arrived, message in enumerate(messages):
        received.add(message, arrived)
        if message.message_id in first or len(first) < rows_max:
            first.setdefault(message.message_id, message)
            copies[message.message_id] += 1
    rows = list(received.snapshot().rows())
    assert [row["message_id"] for row in rows] == [one.hex() for one in first]
    for row, message in zip(rows, first.values(), strict=True):
        text = message.title.encode() + b"\x00" + message.body.encode()
        assert row["sha256"] == hashlib.sha256(text).hexdigest()
        assert row["target"] == hashlib.sha256(message.token.encode()).hexdigest()[:32]
        assert row["copies"] == copies[message.message_id]
        assert ("title" in row) <= keep_texts
        if "title" in row:
            assert (row["title"], row["body"]) == (message.title, message.body)
    unpacked = [BINARY_ROW.unpack(one) for one in received.snapshot().binary()]
    assert [(one[0].hex(), one[1].hex(), one[2].hex(), one[3], one[4]) for one in unpacked] == [
        (row["message_id"], row["sha256"], row["target"], row["copies"], row["arrived_unix_ms"]) for row in rows
    ]
    statistics = received.statistics()
    assert statistics["copies"] == sum(copies.values())
    assert statistics["overflow"] == len(messages) - sum(copies.values())
    assert statistics["texts_kept"] + statistics["texts_dropped"] == (len(rows) if keep_texts else 0)


def test_received_snapshot_outlives_a_reset():
    received = Received(rows_max=10, keep_texts=False, texts_bytes_max=0)
    received.add(Message(b"a" * 16, "t", "x", "y"), 1)
    snapshot = received.snapshot()
    received.reset()
    received.add(Message(b"b" * 16, "t", "x", "y"), 2)
    assert [row["message_id"] for row in snapshot.rows()] == [(b"a" * 16).hex()]


def test_digest_keeps_title_and_body_apart():
    assert digest_of("a", "b") != digest_of("", "ab")
    assert digest_of("\ud800", "") != digest_of("", "")


# ---- clock, configuration, material


def test_clock_goes_forward_only():
    clock = Clock(wall=lambda: 1_000.0)
    assert clock.advance(40 * 86_400) == clock.offset_s
    assert clock.now_unix_s() == 1_000 + 40 * 86_400
    for seconds in (-1, math.nan, math.inf, ADVANCE_S_MAX):
        with pytest.raises(ValueError):
            clock.advance(seconds)
    assert clock.offset_s == 40 * 86_400


def test_config_file_documents_every_key_with_its_default():
    written = tomllib.loads(CONFIG.read_text())
    assert json.loads(json.dumps(written)) == json.loads(msgspec.json.encode(SimulatorsConfig()))
    assert read_config(CONFIG) == SimulatorsConfig()


def test_config_examples_in_comments_are_valid(tmp_path):
    lines = CONFIG.read_text().splitlines()
    begin = lines.index("# [[apns.keys]]")
    examples = [line[2:] for line in lines[begin : lines.index("[fcm]")] if line.startswith("# ")]
    path = tmp_path / "examples.toml"
    path.write_text("\n".join(examples))
    config = read_config(path)
    assert (len(config.apns.keys), len(config.apns.fates), len(config.apns.faults)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("port = 1", "port"),
        ("[apns]\nport = 70000", r"\$.apns.port"),
        ("[apns.http2]\nstream_max = 1", "stream_max"),
        ('[[fcm.faults]]\nkind = "fire"', r"\$.fcm.faults"),
        ("[apns", "simulators.toml"),
    ],
)
def test_config_faults_name_file_and_key(tmp_path, text, match):
    path = tmp_path / "simulators.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_tls_files_and_credentials_are_kept_over_starts(tmp_path):
    files = make_tls_files(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    key, account = make_apns_key(tmp_path, ""), make_service_account(tmp_path, "p", "https://x/token")
    assert make_tls_files(tmp_path) == files
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    assert make_apns_key(tmp_path, "") == key
    assert make_service_account(tmp_path, "p", "https://x/token") == account
    assert make_service_account(tmp_path, "p", "https://y/token").public_pem == account.public_pem
    assert make_service_account(tmp_path, "q", "https://y/token").public_pem != account.public_pem
    for path in (files.good, key.path, account.path):
        assert path.stat().st_mode & 0o077 == 0


def test_tls_files_that_are_broken_or_old_are_made_anew(tmp_path):
    files = make_tls_files(tmp_path)
    old = files.good.read_bytes()
    files.wrong_host.write_text("cut")
    assert make_tls_files(tmp_path).good.read_bytes() != old
    certificate = x509.load_pem_x509_certificate(files.good.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert ssl.create_default_context(cafile=str(files.ca)).cert_store_stats()["x509_ca"] >= 1

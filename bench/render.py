"""How many rows per second does one core render for each vendor, as bytes ready for the socket?

Inside the clock: tokens gathered at random from a table of 200,000, truncation, rendering, and the bytes of requests:
HTTP/2 frames for APNs, FCM and Xiaomi, HTTP/1.1 for the others; of two-step flows both steps. Bursts of 4,096 rows, as
a lane renders. Of e-mail it is the message, as the connection makes it. Outside: batches and message ids, looking
devices up, answers. `ups` is `webhook` under another name and has no line of its own; Alibaba Cloud's numbers go in
lists here, which is not its default (docs/vendors/aliyun_sms.md).

Workloads: `bench/workloads.py`. The first bursts of each line, at least 1 % of its bytes, are parsed back by
`h2`, `json` and `urllib.parse` and compared row by row with what was asked for; a mismatch fails the run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

import vendors
from bench.core_transport import good_answers, greeting
from bench.harness import Line, Options, calibrate, line, progress
from bench.render_check import assert_is, rows_seen
from bench.workloads import Job, jobs
from gateway import columns
from gateway.batch import Batch
from gateway.columns import U8, TextColumn
from gateway.core.render import Renderer, TokenGroup
from gateway.core.render_bulk import fill_saved
from gateway.message_id import BatchAddress, encode_rows
from gateway.vendor import Requests, Vendor, http_version
from gateway.wire.h2.connection import ClientConnection
from gateway.wire.h2.settings import ClientConfig
from gateway.wire.http1.requests import encode_requests
from gateway.wire.smtp.message import compose

WORKLOADS = ("shared", "template", "distinct")
BURST_ROWS = 4096
TOKENS = 200_000
SECRET = b"0123456789abcdef"
NOW_UNIX_S = 1_763_700_100.0
CHECKED_SHARE = 0.01
SECONDS = 0.5
#: Vendor -> (settings, bytes of a token, its alphabet).
_HEX = "0123456789abcdef"
_BASE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SMS_NAMED = {
    "sign_name": "Shop",
    "templates": {"default": {"id": "SMS_1", "params": {"a": "{{title}}", "b": "{{body}}"}}},
}
_SMS_PLACED = {
    "sign_name": "Shop",
    "templates": {"default": {"id": "1", "params": {"1": "{{title}}", "2": "{{body}}"}}},
}
_WECHAT = {"templates": {"default": {"id": "T", "params": {"thing1": "{{title}}", "thing2": "{{body}}"}}}}
VENDORS: dict[str, tuple[dict[str, Any], int, str]] = {
    "apns": ({"team_id": "T", "key_id": "K", "topic": "com.example.app", "key_file": "k"}, 64, _HEX),
    "fcm": ({"project_id": "p", "service_account_file": "k"}, 163, _BASE + "_-"),
    "huawei": ({"client_id": "104000001", "client_secret_file": "k"}, 130, _BASE + "_-"),
    "harmony": ({"project_id": "388", "account_key_file": "k"}, 112, _BASE + "+/-"),
    "honor": ({"app_id": "1044", "client_id": "c", "client_secret_file": "k"}, 120, _BASE + "."),
    "xiaomi": ({"package_name": "com.example.app", "app_secret_file": "k"}, 44, _BASE + "+/="),
    "oppo": ({"app_key_id": "ak", "master_secret_file": "k"}, 35, _HEX),
    "vivo": ({"app_id": 10004, "app_key_id": "ak", "app_secret_file": "k"}, 23, "0123456789"),
    "meizu": ({"app_id": "110000", "app_secret_file": "k"}, 44, _HEX),
    "webhook": ({"host": "hooks.example.com", "secret_file": "k", "app": "shop"}, 32, _HEX),
    "aliyun_sms": (
        {"access_key_id": "LTAI", "access_key_secret_file": "k", "rows_per_request_max": 1000, **_SMS_NAMED},
        11,
        "0123456789",
    ),
    "tencent_sms": (
        {"secret_id": "AKID", "secret_key_file": "k", "sdk_app_id": "1400", **_SMS_PLACED},
        14,
        "0123456789",
    ),
    "wechat": ({"appid": "wx1", "app_secret_file": "k", **_WECHAT}, 28, _BASE + "_-"),
    "wecom": ({"corpid": "ww1", "corp_secret_file": "k", "agentid": 1000002}, 16, _HEX),
    "dingtalk": ({"app_key_id": "ding", "agent_id": 7, "app_secret_file": "k"}, 16, _HEX),
    "email": (
        {"host": "smtp.example.com", "sender": "Shop <no-reply@example.com>", "user_name": "u", "password_file": "k"},
        24,
        _HEX,
    ),
}


def run(options: Options) -> Iterator[Line]:
    for name in VENDORS:
        for workload in WORKLOADS:
            if options.only and not {name, workload, f"{name}@{workload}"} & set(options.only):
                continue
            yield _measure(name, workload, options)


class _Wire:
    """Requests of a burst -> bytes, timed. h2: a connection whose peer answers outside of the clock."""

    def __init__(self, *, is_http2: bool, is_mail: bool) -> None:
        self._machine: ClientConnection | None = None
        self._is_mail = is_mail
        self._answered = 0
        self.seconds = self.cpu_seconds = 0.0
        self.bytes = 0
        if is_http2:
            self._machine = ClientConnection(config=ClientConfig(), now=0.0)
            self.first = [bytes(self._machine.data_to_send())]
            self._machine.receive_data(greeting(), now=0.0)
            self.first.append(bytes(self._machine.data_to_send()))

    def send(self, requests: Requests) -> list[bytes]:
        if self._machine is None:
            started, cpu_started = time.perf_counter(), time.process_time()
            data = (
                [compose(fields).message for fields in columns.join(requests.body, 0, requests.n)]
                if self._is_mail
                else encode_requests(requests, 0, requests.n)
            )
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu_started
            self.bytes += sum(map(len, data))
            return data
        machine, chunks, at = self._machine, [], 0
        while at < requests.n:
            tags = np.arange(at, min(requests.n, at + 1000), dtype=np.int64)
            started, cpu_started = time.perf_counter(), time.process_time()
            taken = machine.send_requests(requests, at, tags, now=0.0, deadline=1.0)
            data = machine.data_to_send()
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu_started
            assert taken, "the connection takes nothing"
            chunks.append(bytes(data))
            at += taken
            sent = machine.sent_count()
            machine.receive_data(good_answers(machine, self._answered, sent), now=0.0)
            self._answered = sent
            chunks[-1] += bytes(machine.data_to_send())
        self.bytes += sum(map(len, chunks))
        return chunks


class _Bursts:
    """Batches of a workload, made outside of the clock."""

    def __init__(self, workload: str, vendor: str, rows: int, seed: int) -> None:
        self._ids = np.zeros((TOKENS, 16), np.uint8)
        self._is_marketing = vendor == "oppo"
        self._seed = seed
        self._workload = workload
        self._rows = rows
        self._number = itertools.count()

    def next(self) -> tuple[Job, Batch]:
        number = next(self._number)
        (job,) = jobs(self._workload, self._rows, self._rows, self._ids, self._seed + number)
        address = BatchAddress(1_763_700_000_000, 1, number % (1 << 22))
        content = job.contents[0]
        if self._is_marketing:
            # The class that OPPO broadcasts.
            content = msgspec.structs.replace(content, class_="marketing")
        batch = Batch(
            address,
            0,
            0.0,
            self._rows,
            device_ids=self._ids[: self._rows],
            message_ids=encode_rows(SECRET, address, np.arange(self._rows)),
            variants=[content],
            variables=job.variables,
        )
        return job, batch


def _measure(name: str, workload: str, options: Options) -> Line:
    fields, width, alphabet = VENDORS[name]
    entry = vendors.REGISTRY[name]
    settings = msgspec.convert(fields, entry.settings)
    vendor: Vendor = entry.vendor(settings)
    letters = np.frombuffer(alphabet.encode(), np.uint8)
    table: U8 = letters[np.random.default_rng(options.seed).integers(0, len(letters), (TOKENS, width))]
    rows_per_burst = 256 if options.smoke else BURST_ROWS
    wanted_s = 0.01 if options.smoke else SECONDS
    before = calibrate()
    progress(f"render {name} {workload} ...")
    is_mail = bool(getattr(vendor, "speaks_smtp", False))
    wire = _Wire(is_http2=not is_mail and http_version(settings) == "2", is_mail=is_mail)
    renderer = Renderer(address_secret=SECRET)
    bursts = _Bursts(workload, name, rows_per_burst, options.seed)
    #: Bursts kept: 1 % of the time at 19 and 3 million rows/s, twice the best rates there are.
    most_kept = 2 if options.smoke else (24 if workload == "shared" else 4)
    rows = cut = refused = 0
    seconds = cpu_seconds = 0.0
    kept: list[tuple[Job, list[bytes], list[bytes]]] = []
    kept_bytes = 0
    while seconds < wanted_s or not kept:
        job, batch = bursts.next()
        chosen = np.arange(batch.n)
        started, cpu_started = time.perf_counter(), time.process_time()
        tokens = table.take(job.devices, axis=0)
        rendered = renderer.render(
            vendor, batch, chosen, [TokenGroup(chosen, tokens)], authorization=b"CREDENTIAL", now_unix_s=NOW_UNIX_S
        )
        took, cpu_took = time.perf_counter() - started, time.process_time() - cpu_started
        wire_before, wire_cpu_before, sent = wire.seconds, wire.cpu_seconds, []
        for group in rendered.groups:
            requests = group.requests
            if requests.bulk is not None and requests.bulk.save is not None:
                sent += wire.send(requests.bulk.save)
                requests = fill_saved(requests, "SAVED")
            sent += wire.send(requests)
            cut += int(group.truncated.sum())
        seconds += took + wire.seconds - wire_before
        cpu_seconds += cpu_took + wire.cpu_seconds - wire_cpu_before
        rows += batch.n
        refused += sum(len(part.positions) for part in rendered.refused)
        # HTTP/2 is read from the beginning of its connection: the first bursts are kept, and none behind a gap.
        is_next = len(kept) * rows_per_burst == rows - batch.n
        if is_next and len(kept) < most_kept:
            kept.append((job, sent, TextColumn(tokens.tobytes(), _offsets(tokens)).rows()))
            kept_bytes += sum(map(len, sent))
    assert kept_bytes >= CHECKED_SHARE * wire.bytes, f"only {kept_bytes} of {wire.bytes} bytes were kept"
    checked = _check(name, wire, kept)
    assert not refused, f"{refused} rows were refused"
    figures = {
        "batch_rows": rows_per_burst,
        "rows": rows,
        "rows_per_s": round(rows / seconds),
        "rows_per_cpu_s": round(rows / cpu_seconds),
        "cpu_s_per_million": round(cpu_seconds / rows * 1e6, 3),
        "bytes_per_row": round(wire.bytes / rows),
        "cut_share": round(cut / rows, 3),
        "checked_rows": checked,
        "checked_share": round(kept_bytes / wire.bytes, 4),
    }
    progress(f"  {figures['rows_per_s']:,} rows/s, {figures['bytes_per_row']} bytes a row, {checked:,} rows compared")
    return line(
        "render", f"{name}@{workload}", **figures, calibration_before=before, calibration_after=calibrate(),
        calibration_unit="million additions per s",
    )  # fmt: skip


def _offsets(tokens: U8) -> Any:
    return np.arange(0, tokens.size + 1, tokens.shape[1], dtype=np.uint32)


def _check(name: str, wire: _Wire, kept: list[tuple[Job, list[bytes], list[bytes]]]) -> int:
    """Rows compared. Raises AssertionError naming the first that is wrong."""
    chunks = [chunk for _, sent, _ in kept for chunk in sent]
    seen = rows_seen(name, chunks, getattr(wire, "first", None))
    n_rows = 0
    for job, _, tokens in kept:
        where = {token.decode(): row for row, token in enumerate(tokens)}
        for row in itertools.islice(seen, len(tokens)):
            at = where.pop(row.token)
            wanted = job.expected(at)
            assert_is(f"{name}, title of row {at}", row.title, wanted.title)
            assert_is(f"{name}, body of row {at}", row.body, wanted.body)
            n_rows += 1
        assert not where, f"{name}: {len(where)} rows are missing"
    return n_rows

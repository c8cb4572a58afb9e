"""What must hold between settings: relations, the memory budget, the open files.

The budget (DESIGN.md section 3): everything that can grow has its own limit, and the limits together must fit
`gateway.memory_bytes_max`, which is per worker. The factors below turn counts of rows into bytes. They are upper
estimates from the layouts named beside them; a change of a layout changes its factor here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

import vendors
from gateway.config_sections import MIB, Config, Devices, Listener
from gateway.config_types import Address, Secret
from gateway.core.consents import KEY_BYTES
from gateway.core.details import BYTES_PER_ALIAS
from gateway.core.own_ids import OWN_ID_BYTES, UNKNOWN_REPORTS_MAX
from gateway.core.presence import TAG_CURVE_BYTES
from gateway.core.presence_log import ROW_BYTES as PRESENCE_CHANGE_BYTES
from gateway.core.probing import probes_max
from gateway.core.receipt_reports import EARLY_REPORTS_MAX
from gateway.core.tags import BYTES_PER_TAG, tag_binding_bytes
from gateway.errors import ConfigError
from gateway.regions import section_name
from gateway.store.inbox_memory import index_bytes
from gateway.store.spill import SEGMENT_BYTES
from gateway.vendor import HttpVersion, http_version

#: Interpreter, numpy, cryptography and our own code, before the first row: 54 MiB measured with every import, and
#: as much again for our own code and for the slack of the allocator.
PROCESS_BYTES = 112 * MIB
#: A record of 64 bytes, its entries in the id and the token index (gateway/core/devices.py, DeviceLimits), its mark.
DEVICE_BYTES = 64 + 20 + 1
#: A distinct (platform, version, time zone).
PROFILE_BYTES = 300
#: One device of an audience that is under way.
DEVICE_ID_BYTES = 16
#: One row in the inbox: its tag in the device's list and the way back (gateway/store/memory.py); its text is elsewhere.
INBOX_ROW_BYTES = 200
#: A row in a lane, parked or in the retry wheel: its position in the batch and the slice's share.
LANE_ROW_BYTES = 16
#: One entry of the receipts log: message id, device id, three codes, Unix ms.
RECEIPT_BYTES = 16 + 16 + 3 + 8
#: An entry of 24 bytes and 2.5 slots of 8 in its index (gateway/core/request_ids.py).
REQUEST_ID_BYTES = 24 + 20
#: One number in a dict of a key of its own, as when every submit has another plan (gateway/core/counters.py).
COUNTER_CELL_BYTES = 500
#: Id, time, and their place in a dictionary.
STOPPED_TASK_BYTES = 150
#: A row that waits alone: two cursors and a reference to its change.
CALLBACK_ROW_BYTES = 400
#: What the journal on disk keeps of an open row: two flags and a channel (gateway/marks.py).
TRAIL_ROW_BYTES = 3
#: State, stage, id and target columns of one open row (gateway/ledger.py, LedgerPage.memory_bytes), without texts.
OPEN_ROW_BYTES = 50
#: What stays in memory of one whose page is spilled (store/spill.py): six columns of a byte and five of four.
SPILLED_ROW_BYTES = 26
#: Columns of one socket of the long link, with its share of the device index.
CONNECTION_BYTES = 88
#: What TLS or WebSocket add to one: 16 KiB measured when idle (TLS 1.3 and 1.2, OpenSSL 3), and a record of 16 KiB half
#: read and one just written.
LAYERS_BYTES = 50 << 10
#: Columns of one unacknowledged downlink message.
IN_FLIGHT_BYTES = 38
#: A stored session: 33 bytes of columns, two cells of its index.
STORED_SESSION_BYTES = 49
#: A packet identifier in a set.
EXCHANGE_BYTES = 240
#: What a device has used of its uplink rates.
UPLINK_RATE_BYTES = 8
#: A change that a device asked for: as a rule a token or a few tags.
UPLINK_CHANGE_BYTES = 20 << 10
#: A connection of RPC, operator or HTTP: a task, a machine and its streams.
SESSION_BYTES = 32 << 10
#: A rendered request of a burst: payload limit of the vendors (4 KiB), header block and frame heads.
REQUEST_BYTES = 5 << 10
#: One request on its way in the ring of an HTTP/2 connection.
STREAM_BYTES = 64
#: A removal of a dead token that the unregister guard holds back: three columns (gateway/core/unregister_guard.py).
HELD_REMOVAL_BYTES = 16
#: One socket of an HTTP/1.1 connection: a TLS object with its buffers, two tasks, a machine.
SOCKET_BYTES = 96 << 10
#: One request of many rows on its way over HTTP/1.1: a thousand tokens of 130 bytes, and the payload.
LIST_BYTES = 160 << 10
#: A request template with its parsed parts.
TEMPLATE_BYTES = 4 << 10
#: Metrics, logs, credentials, what is too small to have its own line.
REST_BYTES = 16 * MIB
#: An address remembered for wrong passwords: its text, an object of three fields, a dict entry.
FAILED_ADDRESS_BYTES = 400
#: A vendor's receipt with one token and its callback parameter, as Python objects.
VENDOR_RECEIPT_BYTES = 500
#: A remembered signature of POST /v1/devices: 32 bytes, a time, a dict entry.
SIGNATURE_BYTES = 150


class BudgetPart(NamedTuple):
    """One line of the memory budget: which part, how many bytes at most, which keys decide it."""

    part: str
    size_bytes: int
    keys: str


def vendor_connections_max(config: Config, version: HttpVersion) -> int:
    """Connections to vendors of that HTTP version at most, over all apps."""
    wanted = sum(
        int(getattr(settings, "connections_max", 1))
        for app in config.apps
        for settings in app.vendors.values()
        if http_version(settings) == version
    )
    return min(wanted, config.http2.connections_max) if version == "2" else wanted


def needs_probes(name: str, settings: object) -> bool:
    """Rows with unproven tokens go over connections of their own: as the key says, else as the vendor's file does."""
    wanted = getattr(settings, "probes", False)
    if wanted is None:
        wanted = vendors.entry_of(name).vendor(settings).bad_tokens_stall
    return bool(wanted) and probes_max(int(getattr(settings, "connections_max", 1))) > 0


def _long_link_budget(config: Config) -> list[BudgetPart]:
    link, devices = config.long_link, config.devices
    return [
        BudgetPart(
            "long link",
            link.connections_max * CONNECTION_BYTES + link.in_flight_max * IN_FLIGHT_BYTES,
            "long_link.connections_max, long_link.in_flight_max",
        ),
        BudgetPart(
            "stored sessions",
            link.sessions_max * STORED_SESSION_BYTES + link.exchanges_parked_max * EXCHANGE_BYTES,
            "long_link.sessions_max, long_link.exchanges_parked_max",
        ),
        BudgetPart(
            "uplink and presence",
            devices.devices_max * UPLINK_RATE_BYTES
            + link.uplink_changes_max * UPLINK_CHANGE_BYTES
            + link.presence_changes_max * PRESENCE_CHANGE_BYTES
            + link.presence_tags_max * TAG_CURVE_BYTES,
            "devices.devices_max, long_link.uplink_changes_max, long_link.presence_changes_max",
        ),
        BudgetPart(
            "long link, TLS and WebSocket",
            link.layered_connections_max * LAYERS_BYTES if any(one.is_layered for one in link.listeners) else 0,
            "long_link.layered_connections_max",
        ),
        BudgetPart(
            "long link buffers",
            link.packets_bytes_max + link.pending_total_bytes_max,
            "long_link.packets_bytes_max, long_link.pending_total_bytes_max",
        ),
    ]


def _inbox_bytes(config: Config) -> int:
    in_memory = config.store.data_dir is None
    limits = config.inbox
    on_disk = index_bytes(limits.rows_max, limits.rows_per_device_max)
    return limits.rows_max * INBOX_ROW_BYTES if in_memory else on_disk


def _details_bytes(devices: Devices) -> int:
    return (
        devices.aliases_max * BYTES_PER_ALIAS
        + devices.tags_max * BYTES_PER_TAG
        + tag_binding_bytes(devices.devices_max, devices.tag_bindings_max)
        + devices.profiles_max * PROFILE_BYTES
    )


def memory_budget(config: Config) -> list[BudgetPart]:
    """How `gateway.memory_bytes_max` is split; the sum may be smaller, never larger."""
    rpc, ledger, devices, lanes = config.rpc, config.ledger, config.devices, config.lanes
    links, bundles = vendor_connections_max(config, "2"), vendor_connections_max(config, "1.1")
    http1 = config.http1
    answer_bytes = http1.header_bytes_max + http1.body_bytes_max
    bundle_bytes = http1.sockets_max * (SOCKET_BYTES + answer_bytes + LIST_BYTES) + http1.queue_max * LIST_BYTES
    n_vendors = sum(len(app.vendors) for app in config.apps)
    # One lane per class, and as many for probes.
    n_lanes = sum(
        4 if needs_probes(name, settings) else 2 for app in config.apps for name, settings in app.vendors.items()
    )
    sessions = rpc.connections_max + config.operator.connections_max + config.http.connections_max
    receipts = config.receipts
    return [
        *_long_link_budget(config),
        BudgetPart("process", PROCESS_BYTES + REST_BYTES, "(fixed)"),
        BudgetPart("device table", devices.devices_max * DEVICE_BYTES, "devices.devices_max"),
        BudgetPart("device tokens", devices.token_bytes_max, "devices.token_bytes_max"),
        BudgetPart(
            "device details",
            _details_bytes(devices),
            "devices.aliases_max, devices.tags_max, devices.tag_bindings_max, devices.profiles_max",
        ),
        BudgetPart("ledger", ledger.ledger_memory_bytes_max, "ledger.ledger_memory_bytes_max"),
        BudgetPart("receipts log", ledger.receipt_log_rows_max * RECEIPT_BYTES, "ledger.receipt_log_rows_max"),
        BudgetPart("stopped tasks", ledger.stopped_tasks_max * STOPPED_TASK_BYTES, "ledger.stopped_tasks_max"),
        BudgetPart("request ids", ledger.idempotency_ids_max * REQUEST_ID_BYTES, "ledger.idempotency_ids_max"),
        BudgetPart("counters", ledger.counter_cells_max * COUNTER_CELL_BYTES, "ledger.counter_cells_max"),
        BudgetPart("inbox", _inbox_bytes(config), "inbox.rows_max"),
        BudgetPart(
            "lanes",
            config.gateway.open_rows_max * (LANE_ROW_BYTES + TRAIL_ROW_BYTES)
            + lanes.templates_max * TEMPLATE_BYTES
            + n_lanes * lanes.burst_rows_max * REQUEST_BYTES,
            "gateway.open_rows_max, lanes.burst_rows_max, lanes.templates_max",
        ),
        BudgetPart(
            "held removals",
            n_vendors * config.unregister_guard.held_max * HELD_REMOVAL_BYTES,
            "unregister_guard.held_max",
        ),
        BudgetPart(
            "vendor connections",
            links * (config.http2.unsent_bytes_max + config.http2.streams_max * STREAM_BYTES),
            "http2.unsent_bytes_max, connections_max of [http2] and of each vendor",
        ),
        BudgetPart(
            "vendor connections, HTTP/1.1",
            bundles * bundle_bytes,
            "http1.sockets_max, http1.queue_max, http1.header_bytes_max, http1.body_bytes_max, "
            "connections_max of each vendor",
        ),
        _audiences_part(config),
        BudgetPart(
            "consents", config.consents.keys_max * KEY_BYTES if counts_consents(config) else 0, "consents.keys_max"
        ),
        BudgetPart("callbacks", _callback_rows(config) * CALLBACK_ROW_BYTES, "queue_rows_max of each app's callback"),
        BudgetPart("rpc frames", rpc.frames_bytes_max, "rpc.frames_bytes_max"),
        BudgetPart("sessions", sessions * SESSION_BYTES, "connections_max of rpc, operator and http"),
        BudgetPart(
            "receipts of vendors",
            receipts.connections_max * (SESSION_BYTES + receipts.body_bytes_max)
            + (receipts.receipts_max + EARLY_REPORTS_MAX + UNKNOWN_REPORTS_MAX) * VENDOR_RECEIPT_BYTES
            + receipts.own_ids_max * OWN_ID_BYTES
            if receipts.listeners
            else 0,
            "receipts.connections_max, receipts.body_bytes_max, receipts.receipts_max, receipts.own_ids_max",
        ),
        BudgetPart(
            "signatures", len(config.apps) * config.http.signatures_max * SIGNATURE_BYTES, "http.signatures_max"
        ),
        BudgetPart(
            "failed addresses",
            config.long_link.failed_addresses_max * FAILED_ADDRESS_BYTES,
            "long_link.failed_addresses_max",
        ),
    ]


def counts_consents(config: Config) -> bool:
    """Whether tables of consents are kept: an app has a vendor with such a quota."""
    return any("consents" in settings.__struct_fields__ for app in config.apps for settings in app.vendors.values())


def _callback_rows(config: Config) -> int:
    return sum(app.callback.queue_rows_max for app in config.apps if app.callback is not None)


def _audiences_part(config: Config) -> BudgetPart:
    size = config.audiences.running_max * config.devices.devices_max * DEVICE_ID_BYTES
    return BudgetPart("audiences", size, "audiences.running_max, devices.devices_max")


def files_needed(config: Config) -> int:
    """Open files a worker may need at once: every connection, listeners, the reserve, spilled pages."""
    return (
        config.long_link.connections_max
        + config.long_link.files_reserve
        + config.rpc.connections_max
        + config.operator.connections_max
        + config.http.connections_max
        + (config.receipts.connections_max + len(config.receipts.listeners) if config.receipts.listeners else 0)
        + len(config.rpc.listeners)
        + len(config.long_link.listeners)
        + 3
        + vendor_connections_max(config, "2")
        + vendor_connections_max(config, "1.1") * config.http1.sockets_max
        + (2 * -(-config.ledger.spill_bytes_max // SEGMENT_BYTES) if config.store.data_dir is not None else 0)
    )


class _At(NamedTuple):
    """A setting with its path, for texts that name both sides of a relation."""

    path: str
    value: float


#: (smaller, larger): the first may not be above the second.
_AT_MOST: tuple[tuple[str, str], ...] = (
    # one frame must fit into what all frames together may take, and one submit into the credit of its connection
    ("rpc.frame_bytes_max", "rpc.frames_bytes_max"),
    ("rpc.credit_bytes", "rpc.frames_bytes_max"),
    ("rpc.frame_bytes_max", "rpc.credit_bytes"),
    ("rpc.unsent_bytes_max", "rpc.frames_bytes_max"),
    ("rpc.variable_bytes_max", "gateway.batch_bytes_max"),
    # one connection must not hold more than all may
    ("rpc.credit_rows", "gateway.open_rows_max"),
    ("lanes.burst_rows_max", "lanes.lane_rows_max"),
    ("lanes.lane_rows_max", "gateway.open_rows_max"),
    ("lanes.parked_rows_max", "gateway.open_rows_max"),
    ("audiences.queued_rows_max", "gateway.open_rows_max"),
    ("links.parked_rows_max", "gateway.open_rows_max"),
    ("gateway.gather_rows_max", "gateway.open_rows_max"),
    ("rpc.submit_rows_max", "rpc.credit_rows"),
    ("rpc.submit_rows_max", "gateway.gather_rows_max"),
    ("long_link.handshakes_per_address_max", "long_link.handshakes_max"),
    ("long_link.handshakes_max", "long_link.connections_max"),
    ("long_link.layered_connections_max", "long_link.connections_max"),
    ("long_link.pending_bytes_max", "long_link.pending_total_bytes_max"),
    ("long_link.packet_bytes_max", "long_link.packets_bytes_max"),
    ("long_link.in_flight_per_device_max", "long_link.in_flight_max"),
    # a payload with its topic and head must fit into what one device may have pending
    ("long_link.payload_bytes_max", "long_link.pending_bytes_max"),
    ("long_link.failed_login_rest_s", "long_link.failed_login_rest_s_max"),
    # an address that rests must not be forgotten meanwhile
    ("long_link.failed_login_rest_s_max", "long_link.failed_login_forget_s"),
    ("inbox.rows_per_device_max", "inbox.rows_max"),
    # a batch and the marks of its rows must find room beside the spare segment
    ("journal.segment_bytes", "journal.bytes_max"),
    ("gateway.batch_bytes_max", "journal.bytes_max"),
    ("inbox.bytes_per_device_max", "inbox.bytes_max"),
    ("retry.first_s", "retry.cap_s"),
    ("retry.throttled_s", "retry.cap_s"),
    ("retry.wait_s_min", "retry.cap_s"),
    ("breaker.open_s", "breaker.open_s_max"),
    ("unregister_guard.dead_share_normal", "unregister_guard.dead_share_max"),
    ("credentials.retry_first_s", "credentials.retry_cap_s"),
    ("http2.stream_window_bytes", "http2.connection_window_bytes"),
    ("http1.connecting_max", "http1.sockets_max"),
    ("http1.body_bytes_max", "http1.body_bytes_read_max"),
)


def _at(config: Config, path: str) -> _At:
    section, _, key = path.partition(".")
    return _At(path, getattr(getattr(config, section), key))


Check = Callable[[Config], Iterator[tuple[str, object, str]]]


def _limits_in_order(config: Config) -> Iterator[tuple[str, object, str]]:
    for small_path, large_path in _AT_MOST:
        small, large = _at(config, small_path), _at(config, large_path)
        if small.value > large.value:
            yield small.path, small.value, f"at most {large.path}, which is {large.value}"


def _budget(config: Config) -> Iterator[tuple[str, object, str]]:
    parts = memory_budget(config)
    total = sum(part.size_bytes for part in parts)
    limit = config.gateway.memory_bytes_max
    if total > limit:
        largest = sorted(parts, key=lambda part: -part.size_bytes)[:4]
        listed = "; ".join(f"{part.part} {part.size_bytes} ({part.keys})" for part in largest)
        yield "gateway.memory_bytes_max", limit, f"at least {total}, the sum of its parts; the largest: {listed}"
    is_spilled = config.store.data_dir is not None and config.ledger.spill_bytes_max > 0
    row_bytes = SPILLED_ROW_BYTES if is_spilled else OPEN_ROW_BYTES
    open_bytes = config.gateway.open_rows_max * row_bytes
    if open_bytes > config.ledger.ledger_memory_bytes_max:
        expected = (
            f"at least {open_bytes}: so much of open rows cannot leave memory, and gateway.open_rows_max is "
            f"{config.gateway.open_rows_max} at {row_bytes} bytes each"
        )
        yield "ledger.ledger_memory_bytes_max", config.ledger.ledger_memory_bytes_max, expected


def _files(config: Config) -> Iterator[tuple[str, object, str]]:
    needed = files_needed(config)
    if needed > config.long_link.files_max:
        expected = f"at least {needed}: every connection that the other limits allow, and files_reserve"
        yield "long_link.files_max", config.long_link.files_max, expected


def _listeners(config: Config) -> Iterator[tuple[str, object, str]]:
    for index, listener in enumerate(config.rpc.listeners):
        yield from _listener(f"rpc.listeners[{index}]", listener, ("tcp", "tls", "unix"))
    if config.long_link.is_moved and not config.long_link.server_reference:
        yield (
            "long_link.server_reference",
            "",
            "where devices are to go, since long_link.is_moved sends all away",
        )
    for index, listener in enumerate(config.long_link.listeners):
        yield from _listener(f"long_link.listeners[{index}]", listener, ("tcp", "tls", "ws", "wss"))
    for index, listener in enumerate(config.receipts.listeners):
        yield from _listener(f"receipts.listeners[{index}]", listener, ("tcp", "tls"))
    if config.http.address.scheme != "tcp":
        yield "http.address", str(config.http.address), "tcp://host:port"
    operator = config.operator
    if operator.address is not None and operator.address.scheme not in ("tcp", "tls"):
        yield "operator.address", str(operator.address), "tcp://host:port; the Unix socket is operator.socket"
    if operator.address is not None and operator.admin_key is None:
        yield "operator.admin_key", None, "admin_key_file or admin_key_env, since operator.address is set"
    seen: dict[str, str] = {}
    for path, address in _addresses(config):
        if not (address.scheme != "unix" and address.port == 0) and seen.setdefault(str(address), path) != path:
            yield path, str(address), f"an address of its own; {seen[str(address)]} has the same"


def _addresses(config: Config) -> Iterator[tuple[str, Address]]:
    for section, listeners in (
        ("rpc", config.rpc.listeners),
        ("long_link", config.long_link.listeners),
        ("receipts", config.receipts.listeners),
    ):
        for index, listener in enumerate(listeners):
            yield f"{section}.listeners[{index}].address", listener.address
    yield "http.address", config.http.address
    if config.operator.address is not None:
        yield "operator.address", config.operator.address


def _listener(path: str, listener: Listener, schemes: tuple[str, ...]) -> Iterator[tuple[str, object, str]]:
    if listener.address.scheme not in schemes:
        yield f"{path}.address", str(listener.address), " or ".join(f"{scheme}://" for scheme in schemes)
    for key in ("cert_file", "key_file"):
        scheme, has_tls = listener.address.scheme, listener.address.has_tls
        if (getattr(listener, key) is None) == has_tls:
            wanted = f"a file, since the address is {scheme}://" if has_tls else "nothing"
            yield f"{path}.{key}", getattr(listener, key), wanted


def _apps(config: Config) -> Iterator[tuple[str, object, str]]:
    keys: dict[str, int] = {}
    for index, app in enumerate(config.apps):
        path = f"apps[{index}]"
        if keys.setdefault(app.key, index) != index:
            yield f"{path}.key", app.key, f"a key of its own; apps[{keys[app.key]}] has the same"
        if not app.secrets:
            yield f"{path}.secrets", app.secrets, "at least one secret"
        if not app.truncation.mark.isprintable() and app.truncation.mark:
            yield f"{path}.truncation.mark", repr(app.truncation.mark), "characters that can be seen, on one line"
        if app.callback is not None and not re.match(r"https?://[^/\s]+", app.callback.url):
            yield f"{path}.callback.url", app.callback.url, "an http or https URL"
    if config.store.data_dir is not None and config.gateway.workers > config.store.shard_groups:
        groups = config.store.shard_groups
        yield "gateway.workers", config.gateway.workers, f"at most store.shard_groups ({groups}): each owns one or more"
    if config.dev.make_secrets and not config.dev.clock:
        yield "dev.make_secrets", True, "dev.clock = true beside it: both are for development only"


_CHECKS: tuple[Check, ...] = (_limits_in_order, _budget, _files, _listeners, _apps)


def relation_faults(config: Config, file: str) -> list[ConfigError]:
    """Every relation that does not hold."""
    return [
        ConfigError(path, value, expected, file=file) for check in _CHECKS for path, value, expected in check(config)
    ]


def file_faults(config: Config, file: str) -> list[ConfigError]:
    """Every file or variable that the configuration names and that is not there, or cannot be read."""
    faults: list[ConfigError] = []
    for path, named in _named(config, ""):
        is_app_secret = path.startswith("apps[") and ".secrets[" in path
        if isinstance(named, Secret):
            if config.dev.make_secrets and is_app_secret and named.file is not None and not named.file.exists():
                continue
            try:
                named.read()
            except ConfigError as error:
                faults.append(ConfigError(f"{path}.{error.key}", error.value, error.expected, file=file))
        elif not os.access(named, os.R_OK) or not named.is_file():
            faults.append(ConfigError(path, str(named), "a readable file", file=file))
    return faults


def _named(node: object, path: str) -> Iterator[tuple[str, Secret | Path]]:
    """Secrets and `*_file` paths anywhere in the configuration, vendors' Settings included."""
    if isinstance(node, Secret):
        yield path, node
    elif isinstance(node, msgspec.Struct):
        for field in node.__struct_fields__:
            value = getattr(node, field)
            here = f"{path}.{field}" if path else field
            if field.endswith("_file") and value:
                yield here, Path(value)
            elif field.endswith("_env") and value:
                yield here, Secret(env=value)
            elif field == "vendors":
                for name, settings in value.items():
                    yield from _named(settings, f"{path}.{section_name(name)}")
            else:
                yield from _named(value, here)
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _named(item, f"{path}[{index}]")

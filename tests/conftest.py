"""What all tests share: hypothesis profiles and the rule for tests that need tools of the system.

PROFILE=dev (default) is the shorter one, meant to stay under five minutes; PROFILE=ci looks longer and is the same on
every run. A test marked `needs_tools` names the programs it runs as arguments of the marker
(`@pytest.mark.needs_tools("mosquitto_sub")`); without arguments it needs all of TOOLS. Where one is missing the test is
skipped with that reason and listed at the end; with PUSHGW_REQUIRE_TOOLS=1 it fails.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, settings

from gateway.actors import page_forms
from gateway.app import load
from gateway.cli.toml_text import to_toml
from gateway.config import Config
from gateway.store import packing, page_rows

#: From the packages mosquitto, mosquitto-clients, nghttp2-server, nghttp2-client.
TOOLS = ("mosquitto", "mosquitto_sub", "mosquitto_pub", "nghttpd", "h2load")
#: Debian keeps daemons where a plain user's PATH does not look.
_EXTRA_PATH = "/usr/sbin:/sbin:/usr/local/sbin"

# No deadline per example: the machine is shared, and a slow moment is not a failure.
settings.register_profile("dev", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# `make fuzz`: the budget is the number of examples; the seed is given with --hypothesis-seed and printed.
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "5000")),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
PROFILE = os.environ.get("PROFILE", "dev")
settings.load_profile(PROFILE)

os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{_EXTRA_PATH}"

#: First words of the reason of a test that is skipped for want of its tools. Reasons travel with reports, so they reach
#: the process that prints the summary also where tests run in several (`make test`).
_WANT = "needs the tools "


def missing_tools(wanted: tuple[str, ...]) -> list[str]:
    return [tool for tool in wanted or TOOLS if shutil.which(tool) is None]


def pytest_report_header(config: pytest.Config) -> str:
    required = "required" if os.environ.get("PUSHGW_REQUIRE_TOOLS") == "1" else "optional"
    return f"profile {PROFILE}; tools of the system are {required}, missing: {', '.join(missing_tools(())) or 'none'}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("needs_tools")
    missing = missing_tools(marker.args) if marker is not None else []
    if not missing:
        return
    text = f"{_WANT}{', '.join(missing)}"
    if os.environ.get("PUSHGW_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{text}, and PUSHGW_REQUIRE_TOOLS=1 is set", pytrace=False)
    pytest.skip(text)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Profile dev leaves out what is marked `long`. Where tests run in several processes, each of which begins with its
    part of the list, slow files stand at the beginning of two parts, and `timed` ones, which wait for them, last."""
    if PROFILE == "dev":
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="takes long: profile ci runs it"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    piles: dict[str, list[pytest.Item]] = {"slow": [], "slow too": [], "rest": [], "timed": []}
    pile_of: dict[str, str] = {}
    for item in items:
        kind = next((name for name in ("slow", "timed") if item.get_closest_marker(name) is not None), "rest")
        if kind == "slow":
            shorter = min(("slow", "slow too"), key=lambda name: len(piles[name]))
            # A file stays together: its tests share simulators.
            kind = pile_of.setdefault(item.nodeid.partition("::")[0], shorter)
        piles[kind].append(item)
    first = max(0, len(items) // processes - len(piles["slow"]))
    rest = piles["rest"]
    items[:] = [*piles["slow"], *rest[:first], *piles["slow too"], *rest[first:], *piles["timed"]]


def _hold_machine(folder: Path, mine: str, other: str) -> contextlib.ExitStack:
    """Held as long as the stack is open: as many as like of one kind, none beside one of the other."""
    folder.mkdir(exist_ok=True)
    held = contextlib.ExitStack()
    own = held.enter_context((folder / f"{mine}.lock").open("w"))
    # Through the gate one at a time, so that whoever waits for the other kind to end is not overtaken for ever.
    with (folder / "gate.lock").open("w") as gate, (folder / f"{other}.lock").open("w") as others:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(others, fcntl.LOCK_EX)
        fcntl.flock(own, fcntl.LOCK_SH)
    return held


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where tests run in several processes, none marked `timed` runs beside one marked `slow`: those take the whole
    machine for seconds, and short timeouts would then be about it and not about the gateway."""
    marks = {mark.name for mark in item.iter_markers()} & {"slow", "timed"}
    if "PYTEST_XDIST_WORKER" not in os.environ or not marks:
        return (yield)
    mine, other = ("slow", "timed") if "slow" in marks else ("timed", "slow")
    with _hold_machine(item.config.rootpath / ".pytest_cache", mine, other):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = {
        report.nodeid: report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    }
    wanting = {nodeid: reason for nodeid, reason in reasons.items() if reason.startswith(_WANT)}
    if wanting:
        terminalreporter.section("skipped for want of tools")
        for nodeid, reason in wanting.items():
            terminalreporter.line(f"{nodeid}: {reason}")


def _write_certificate(path: Path, name: str = "localhost", *, until_days: int = 1) -> Path:
    """A self-signed certificate for name and 127.0.0.1, with its key in the same file."""
    day = datetime.timedelta(days=1)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * day)
        .not_valid_after(now + until_days * day)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="session")
def write_certificate() -> Callable[..., Path]:
    """Makes certificates for tests: (path, name="localhost", until_days=1) -> path."""
    return _write_certificate


@pytest.fixture
def small_pages_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages of the ledger are written and read like large ones: changes beside them, rows without the rest."""
    monkeypatch.setattr(page_forms, "AMENDED_ROWS_MIN", 1)
    monkeypatch.setattr(page_forms, "LOG_BYTES_PER_ROW_MAX", 400)
    monkeypatch.setattr(page_rows, "ROWS_MIN", 1)
    monkeypatch.setattr(packing, "_PARTS_BYTES_MIN", 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short, because socket paths are: pytest's own directories can be too long for them.
    name = tempfile.mkdtemp(prefix="pg-")
    yield Path(name)
    shutil.rmtree(name, ignore_errors=True)


@pytest.fixture
def make_config(folder: Path) -> Callable[..., Config]:
    """A configuration of one app on free ports; tables given by name are laid over it, `app` over its one app."""

    def make(*, app: dict[str, Any] | None = None, **over: dict[str, Any]) -> Config:
        (folder / "app.secret").write_bytes(b"the secret of the shop")
        table: dict[str, Any] = {
            "gateway": {"data_dir": str(folder / "data"), "drain_s": 2.0},
            "rpc": {"listeners": [{"address": "tcp://127.0.0.1:0"}]},
            "operator": {"socket": str(folder / "operator.sock")},
            "http": {"address": "tcp://127.0.0.1:0"},
            "long_link": {"listeners": [{"address": "tcp://127.0.0.1:0"}]},
            "devices": {"devices_max": 1000, "token_bytes_max": 1_000_000},
        }
        for name, values in over.items():
            table[name] = table.get(name, {}) | values
        table["apps"] = [{"key": "shop", "secrets": [{"file": str(folder / "app.secret")}]} | (app or {})]
        (folder / "gateway.toml").write_text(to_toml(table))
        config = load(str(folder / "gateway.toml"))
        config.gateway.data_dir.mkdir(exist_ok=True)
        return config

    return make

"""The table of metrics and its document hold together."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.ledger import Reason, State
from gateway.observe.metric_types import Kind, Metric
from gateway.observe.metrics import Metrics
from gateway.verdict import Verdict

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "metrics.md"


def documented_row(metric: Metric) -> str:
    """The metric as its row in docs/metrics.md must stand."""
    labels = ", ".join(label.name for label in metric.labels) or "-"
    return f"| `{metric.exported_name}` | {metric.kind.value} | {metric.unit} | {labels} | {metric.help} |"


def test_every_metric_is_documented_as_it_is_declared() -> None:
    rows = set(DOCUMENT.read_text().splitlines())
    missing = [documented_row(metric) for metric in Metrics().metrics if documented_row(metric) not in rows]
    assert not missing, "add to docs/metrics.md:\n" + "\n".join(missing)


def test_the_document_names_no_metric_that_does_not_exist() -> None:
    known = {metric.exported_name for metric in Metrics().metrics}
    named = set(re.findall(r"\bpushgw_[a-z0-9_]+", DOCUMENT.read_text()))
    assert {name.removesuffix("_bucket") for name in named} <= known


def test_every_metric_has_help_unit_and_a_name_with_its_unit() -> None:
    for metric in Metrics().metrics:
        assert metric.help, metric.name
        assert not metric.help.endswith("."), metric.name
        assert metric.name == metric.name.lower(), metric.name
        assert (metric.unit == "seconds") == metric.name.endswith("_s"), metric.name
        assert (metric.unit == "bytes") == metric.name.endswith("bytes"), metric.name
        assert metric.kind is not Kind.GAUGE or not metric.exported_name.endswith("_total"), metric.name


def test_metrics_are_counted_in_the_words_of_the_ledger() -> None:
    metrics = Metrics()
    metrics.row_moves.add(2, "apns", State.VENDOR_ACCEPTED)
    metrics.row_reasons.add(1, Reason.TTL_PASSED)
    metrics.verdicts.add(3, "fcm", Verdict.THROTTLED)
    assert metrics.row_moves.value("apns", "vendor_accepted") == 2
    assert metrics.row_reasons.value("ttl_passed") == 1
    assert metrics.verdicts.value("fcm", "throttled") == 3


def test_every_metric_has_one_row_in_the_order_of_their_names() -> None:
    rows = re.findall(r"(?m)^\| `(pushgw_\w+)` \|", DOCUMENT.read_text())
    assert rows == sorted(set(rows))


def test_every_metric_is_moved_by_something() -> None:
    """A name in the table that no code mentions is a figure that stays at 0 for ever."""
    sources = [path for path in (DOCUMENT.parents[1] / "gateway").rglob("*.py") if path.name != "metrics.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    idle = [name for name in vars(Metrics) if not name.startswith("_") and not re.search(rf"\.{name}\b", text)]
    assert idle == []

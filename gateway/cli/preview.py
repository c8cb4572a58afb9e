"""`pushgw preview FILE.jsonl`: what each vendor of an app would receive for each line. Nothing is sent.

Lines are read as `submit` reads them, variables are put in, and the gateway's own renderer makes the requests, with
placeholders for tokens and credentials. Which texts are cut, and from how many code points to how many, is said; a line
that a vendor could never take is said with field and reason.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
import numpy as np

import vendors
from gateway.app_parts import cut_rule
from gateway.batch import Batch
from gateway.cli.connection import choose_app, read_config
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.lines import LineReader, open_lines
from gateway.cli.output import Output, counted
from gateway.client.rows import Row
from gateway.columns import TextColumn, join
from gateway.config_sections import App
from gateway.content import Click, Texts, Variant, template_parts
from gateway.core.render import Renderer, TokenGroup
from gateway.core.rendered import CutRule
from gateway.message_id import BatchAddress, encode_rows
from gateway.vendor import Requests, Vendor, slot_text

#: Placeholders; never a real secret.
CREDENTIAL = b"CREDENTIAL"
_SECRET = bytes(16)
_FORM = "application/x-www-form-urlencoded"


class Shown(NamedTuple):
    """One request as its vendor would see it. then: the second one, where the first only prepares it."""

    url: str
    headers: dict[str, str]
    body: Any
    rows: int
    then: Shown | None = None


class Preview(NamedTuple):
    """What becomes of one line at one vendor."""

    line: int
    vendor: str
    requests: list[Shown]
    cuts: list[str]
    refused: list[str]


def run(options: argparse.Namespace, output: Output) -> int:
    config = read_config(options.config)
    app = choose_app(config, options.app)
    chosen = _vendors(app, options.vendor)
    with open_lines(options.file) as lines:
        reader = LineReader(lines, default_to=itertools.repeat(bytes(16)))
        found = [preview for row in reader.rows() for preview in previews(row, chosen, options.rows, cut_rule(app))]
    output.document(
        {
            "lines": [_document(preview) for preview in found],
            "refused_lines": [fault._asdict() for fault in reader.faults],
        }
    )
    if not output.is_json:
        for preview in found:
            output.text(_as_text(preview))
        for fault in reader.faults:
            output.error(f"line {fault.line}: {fault.text}")
    is_refused = reader.n_faults or any(preview.refused for preview in found)
    return ExitCode.ROWS_REFUSED if is_refused else ExitCode.GOOD


def _document(preview: Preview) -> dict[str, Any]:
    def of(request: Shown) -> dict[str, Any]:
        return request._asdict() | {"then": None if request.then is None else of(request.then)}

    return preview._asdict() | {"requests": [of(request) for request in preview.requests]}


def _vendors(app: App, names: list[str]) -> dict[str, Vendor]:
    wanted = names or sorted(app.vendors)
    for name in wanted:
        if name not in app.vendors:
            raise UsageError(f"app {app.key} has no vendor {name!r}; it has {', '.join(sorted(app.vendors)) or 'none'}")
    if not wanted:
        raise UsageError(f"app {app.key} has no vendor")
    return {name: vendors.entry_of(name).vendor(app.vendors[name]) for name in wanted}


def previews(row: Row, chosen: dict[str, Vendor], n: int, rule: CutRule) -> Iterator[Preview]:
    """What becomes of the row at each vendor it may go to, as if n devices got it."""
    variant = _filled(row.variant, row.variables or {})
    for name, vendor in chosen.items():
        if isinstance(row.target, tuple) and row.target[0] != name:
            continue
        yield _preview(row.line, name, vendor, variant, n, rule)


def _preview(line: int, name: str, vendor: Vendor, variant: Variant, n: int, rule: CutRule) -> Preview:
    now = time.time()
    address = BatchAddress(int(now * 1000), 0, 0)
    batch = Batch(
        address,
        0,
        0.0,
        n,
        device_ids=np.zeros((n, 16), np.uint8),
        message_ids=encode_rows(_SECRET, address, np.arange(n)),
        variants=[variant],
    )
    tokens = TextColumn.from_texts([f"TOKEN{number:04d}" for number in range(1, n + 1)]).fixed()
    assert tokens is not None
    rendered = Renderer(address_secret=_SECRET, rules={batch.app: rule}).render(
        vendor,
        batch,
        np.arange(n),
        [TokenGroup(np.arange(n), tokens)],
        authorization=CREDENTIAL,
        now_unix_s=now,
        reports_cuts=True,
    )
    shown = [one for group in rendered.groups for one in _shown(group.requests)]
    cuts = [f"{cut.field} is cut from {cut.before} to {cut.after} code points" for cut in rendered.cuts or []]
    refused = [f"{part.field}: {part.text}" for part in rendered.refused]
    return Preview(line, name, shown, cuts, refused)


def _shown(requests: Requests) -> list[Shown]:
    bulk = requests.bulk
    save = None if bulk is None or bulk.save is None else _shown(bulk.save)[0]
    paths, bodies = join(requests.path, 0, requests.n), join(requests.body, 0, requests.n)
    headers = [(name.decode(), join(pieces, 0, requests.n)) for name, pieces in requests.headers]
    out = []
    for index in range(requests.n):
        rows = 1 if bulk is None else int(bulk.offsets[index + 1] - bulk.offsets[index])
        own = {name: values[index].decode() for name, values in headers}
        url = f"https://{requests.authority.decode()}{paths[index].decode()}"
        body = _body(bodies[index].replace(slot_text("saved"), b"NAME_FROM_THE_FIRST_STEP"), own)
        request = Shown(url, own, body, rows)
        out.append(request if save is None else save._replace(rows=rows, then=request))
    return out


def _body(body: bytes, headers: dict[str, str]) -> Any:
    """A JSON body as its value, a form as its fields with the JSON in them read."""
    if not headers.get("content-type", "").startswith(_FORM):
        return msgspec.json.decode(body)
    fields: dict[str, Any] = dict(parse_qsl(body.decode(), keep_blank_values=True))
    for name, value in fields.items():
        if value[:1] in ("{", "["):
            try:
                fields[name] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                continue
    return fields


def _filled(variant: Variant, variables: Mapping[str, str]) -> Variant:
    """The content with the variables of one row put in."""

    def put(text: str) -> str:
        parts = template_parts(text)
        for at in range(1, len(parts), 2):
            parts[at] = variables.get(parts[at], "{{" + parts[at] + "}}")
        return "".join(parts)

    click = variant.click
    own = {
        channel: Texts(*(None if text is None else put(text) for text in (told.title, told.body)))
        for channel, told in (variant.texts or {}).items()
    }
    return msgspec.structs.replace(
        variant,
        title=put(variant.title),
        body=put(variant.body),
        data={key: put(value) if isinstance(value, str) else value for key, value in (variant.data or {}).items()}
        or None,
        click=None if click is None else Click(click.type, put(click.value)),
        texts=own or None,
    )


def _as_text(preview: Preview) -> str:
    head = f"line {preview.line}, {preview.vendor}"
    lines = [f"{head}: refused, {why}" for why in preview.refused]
    for request in preview.requests:
        step: Shown | None = request
        while step is not None:
            lines.append(f"{head}: POST {step.url} ({counted(step.rows, 'row')})")
            lines += [f"  {name}: {value}" for name, value in step.headers.items()]
            body = msgspec.json.format(msgspec.json.encode(step.body), indent=2).decode()
            lines += [f"  {line}" for line in body.splitlines()]
            step = step.then
    lines += [f"  {cut}" for cut in preview.cuts]
    return "\n".join(lines) + "\n"

"""Rendering: the rows of a burst become `Requests`, columns that a connection turns into bytes.

Three ways through, by what differs between the rows of one group of tokens:

    shared     one variant, no variables      constants and fixed-width columns; texts are fitted once per group
    template   one variant with variables     pieces, a column per variable; only rows over a limit are fitted singly
    mixed      many variants, few rows each   a short loop, one row after the other

Where the vendor takes many rows in one request, shared rows go as lists of tokens and the others as lists of messages
(core/render_bulk.py).

Rules for authors: nothing per row outlives a call but the columns returned. Positions index the `rows` given to the
call; each one that a token group names ends in exactly one group of requests or one entry of refused rows. Whether and
where a text is cut never depends on the other rows of the burst. A plain one-row-at-a-time twin is in the tests.

Variables: a batch with variable columns is a batch of templates: `{{name}}` is replaced in all its variants wherever it
has a column of that name, and stays text elsewhere. So rows with and without variables belong into different batches.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from gateway import burst_address, message_id
from gateway.batch import Batch
from gateway.columns import Pieces, Rows, TextColumn
from gateway.content import Variant
from gateway.core.burst import Burst
from gateway.core.compiled import ROW_SLOTS, Compiled, Source, TemplateCache
from gateway.core.downlink import PAYLOAD_BYTES_MAX_DEFAULT, Downlink
from gateway.core.fit import Fitted, TooLong
from gateway.core.render_bulk import add_distinct, add_shared, lone_rows
from gateway.core.render_mixed import render_mixed
from gateway.core.render_template import render_template
from gateway.core.rendered import (
    CutRule,
    Group,
    Numbering,
    PayloadGroup,
    RefusedRows,
    Rendered,
    RenderedGroup,
    RenderedPayloads,
    TokenGroup,
    Tokens,
    text_slots,
)
from gateway.ledger import Reason
from gateway.vendor import Refusal

__all__ = [
    "PayloadGroup",
    "RefusedRows",
    "Rendered",
    "RenderedGroup",
    "RenderedPayloads",
    "Renderer",
    "RequestSource",
    "TokenGroup",
]

#: With fewer rows per variant than this, a group per variant costs more than the loop over rows.
_UNIFORM_ROWS_MIN = 16
_USUAL = CutRule()
#: The same where a group becomes a request of many rows: that saves requests from two rows on.
_SHARED_ROWS_MIN = 2
_MESSAGE_ID_BYTES = 36


class RequestSource(Source, Protocol):
    """What rendering needs of a vendor (gateway.vendor.Vendor)."""

    def authority(self) -> tuple[str, int]: ...


def _home_address(batch: Batch) -> message_id.BatchAddress:
    """The address that receipts come back to: a slice of another home's batch has an address of its own here, and the
    home's in its message ids."""
    if batch.address.sequence < message_id.SEQUENCES_MAX:
        return batch.address
    return message_id.batch_of(batch.message_ids[0].tobytes())


class Renderer:
    """Keeps templates between bursts. Owned by one actor at a time; no I/O, no clock.

    rules: how texts of an app's rows are cut, by the app's index; others have the usual rule.
    templates_max: kinds of variant kept, about 3 KiB each. address_secret: of the addresses in callback parameters, the
    gateway's own. first_number: of the first request of many rows. Rows of one batch are rendered by several workers,
    and again after a restart; their addresses must differ, since vendors take a request whose id they know for a
    repetition. So each process begins somewhere else.
    """

    def __init__(
        self,
        *,
        rules: Mapping[int, CutRule] | None = None,
        templates_max: int = 1024,
        downlink_payload_bytes_max: int = PAYLOAD_BYTES_MAX_DEFAULT,
        address_secret: bytes = b"",
        first_number: int = 0,
    ) -> None:
        self._rules = rules or {}
        self._templates = TemplateCache(templates_max)
        self._downlink = Downlink(downlink_payload_bytes_max)
        self._address_secret = address_secret
        #: The next request of many rows, over all lanes.
        self._numbers = first_number % burst_address.NUMBERS_MAX

    def render(
        self,
        vendor: RequestSource,
        batch: Batch,
        rows: Rows,
        tokens: Sequence[TokenGroup],
        *,
        authorization: bytes,
        now_unix_s: float,
        reports_cuts: bool = False,
    ) -> Rendered:
        """The requests of these rows of the batch. A row that no token group names is left out.

        reports_cuts: also says which texts were cut, of contents that all of their rows share.
        """
        host, port = vendor.authority()
        authority = (host if port == 443 else f"{host}:{port}").encode()
        burst = Burst(vendor, batch, rows, authorization, now_unix_s)
        out = Rendered([], [], [] if reports_cuts else None)
        sign, numbering = None, None
        if getattr(vendor, "is_bulk", False):
            texts = functools.partial(burst_address.encode_numbers, self._address_secret, _home_address(batch))
            sign, numbering = getattr(vendor, "sign"), Numbering(self._take_numbers, texts)  # noqa: B009
        rule = self._rules.get(batch.app, _USUAL)
        for positions, column in tokens:
            if len(positions):
                self._render_group(Group(burst, rule, authority, positions, column, out, sign, numbering))
        return out

    def _take_numbers(self, count: int) -> int:
        first = self._numbers
        self._numbers = (first + count) % burst_address.NUMBERS_MAX
        return first

    def render_downlink(self, batch: Batch, rows: Rows, *, now_unix_s: float) -> RenderedPayloads:
        """The payloads of the long link for these rows of the batch."""
        burst = Burst(self._downlink, batch, rows, b"", now_unix_s)
        out = Rendered([], [])
        if len(rows):
            rule = self._rules.get(batch.app, _USUAL)
            self._render_group(Group(burst, rule, b"", np.arange(len(rows)), None, out))
        groups = [PayloadGroup(group.positions, group.requests.body, group.truncated) for group in out.groups]
        return RenderedPayloads(groups, out.refused)

    def statistics(self) -> dict[str, int]:
        cache = self._templates
        return {"templates": len(cache), "template_hits": cache.hits, "template_misses": cache.misses}

    def _render_group(self, group: Group) -> None:
        """Chooses the way (see the module's docstring)."""
        burst = group.burst
        if burst.variant_index is None:
            self._render_uniform(group, burst.variant(0))
            return
        indexes = burst.variant_index[group.positions]
        if int(indexes.min()) == int(indexes.max()):
            self._render_uniform(group, burst.variant(int(indexes[0])))
            return
        order = np.argsort(indexes, kind="stable")
        starts = np.flatnonzero(np.diff(indexes[order])) + 1
        if len(order) < self._uniform_rows_min(group, burst.variant(int(indexes[0]))) * (len(starts) + 1):
            render_mixed(group, lambda variant: self._template(group, variant), self._render_uniform)
            return
        for chosen in np.split(order, starts):
            self._render_uniform(group.take(chosen), burst.variant(int(indexes[chosen[0]])))

    def _uniform_rows_min(self, group: Group, variant: Variant) -> int:
        if group.numbering is None:
            return _UNIFORM_ROWS_MIN
        template = self._template(group, variant)
        takes_lists = isinstance(template, Compiled) and template.shared is not None and template.distinct is None
        return _SHARED_ROWS_MIN if takes_lists else _UNIFORM_ROWS_MIN

    def _template(self, group: Group, variant: Variant) -> Compiled | Refusal:
        return self._templates.get(group.burst.source, variant, with_variables=bool(group.burst.batch.variables))

    def _render_uniform(self, group: Group, variant: Variant) -> None:
        template = self._template(group, variant)
        burst = group.burst
        if isinstance(template, Refusal):
            group.refuse(Reason.CONTENT_REFUSED, template)
        elif (
            burst.variables_in(variant.title)
            or burst.variables_in(variant.body)
            or any(burst.has_variable(name) for name, _ in template.body_slots)
        ):
            render_template(group, variant, template)
        else:
            _render_shared(group, variant, template)


def _render_shared(group: Group, variant: Variant, template: Compiled) -> None:
    """All rows of the group are rendered or refused; their texts are the same and fitted once."""
    burst = group.burst
    limits = burst.source.limits(variant)
    blank = group.blank(variant, template, variant.title, variant.body)
    if blank is not None:
        group.refuse(Reason.CONTENT_REFUSED, blank)
        return
    slots: dict[str, Pieces] = {}
    shortest, longest = _token_lengths(group.tokens) if limits.counts_token else (0, 0)
    overhead = template.constant_bytes
    has_token = False
    for name, count in template.body_slots:
        base = name.partition("|")[0]
        if base == "token":
            overhead += count * longest
            has_token = True
        elif base == "address" and group.numbering is not None:
            # The longer form, so that a row alone is cut as the others are.
            overhead += count * burst_address.TEXT_CHARACTERS
        elif base in ("message_id", "address"):
            overhead += count * _MESSAGE_ID_BYTES
        elif base != "signature":
            value = burst.constant(name, variant, in_json=True)
            slots[name] = (value,)
            overhead += count * len(value)
    fitted = group.fit(variant, template, variant.title, variant.body, overhead)
    is_tight = isinstance(fitted, TooLong) or fitted.was_cut
    if is_tight and has_token and shortest != longest:
        # The room for texts differs from token to token: one group per length.
        for chosen in _by_length(group.tokens):
            _render_shared(group.take(chosen), variant, template)
        return
    if isinstance(fitted, TooLong):
        group.refuse(Reason.CONTENT_TOO_LONG, fitted)
        return
    n = len(group.positions)
    if template.shared is not None and n > 1:
        n_lone = lone_rows(n, template.shared.rows_max)
        if n_lone < n:
            names = {*template.shared.text_slots}
            if template.shared.save is not None:
                names |= {*template.shared.save.text_slots}
            add_shared(group.take(np.arange(n - n_lone)), variant, template, text_slots(names, fitted), fitted.was_cut)
            if n_lone:
                _render_shared(group.take(np.arange(n - n_lone, n)), variant, template)
            return
    if template.distinct is not None and n > 1:
        n_lone = lone_rows(n, template.distinct.rows_max)
        if n_lone < n:
            _list_shared(group.take(np.arange(n - n_lone)), variant, template, fitted)
            if n_lone:
                _render_shared(group.take(np.arange(n - n_lone, n)), variant, template)
            return
    # Only now: escaping tokens one by one is half of the work, and lists have their own.
    slots |= group.row_pieces(template.row_slots) | text_slots(template.text_slots, fitted)
    body = group.signed_body(template, slots, n)
    for name in template.header_slots:
        slots[name] = (burst.constant(name, variant, in_json=False),)
    group.add(template, slots, body, np.full(n, fitted.was_cut))


def _list_shared(group: Group, variant: Variant, template: Compiled, fitted: Fitted) -> None:
    """Rows of one content as a list of messages, for classes of which the vendor takes no list of tokens."""
    bulk = template.distinct
    assert bulk is not None
    names = [name for name in bulk.list_slots if name.partition("|")[0] in ROW_SLOTS]
    slots = group.row_pieces(names) | text_slots(bulk.text_slots, fitted)
    for name in bulk.list_slots:
        if name not in slots:
            slots[name] = (group.burst.constant(name, variant, in_json=True),)
    add_distinct(group, variant, template, slots, np.full(len(group.positions), fitted.was_cut))


def _token_lengths(tokens: Tokens | None) -> tuple[int, int]:
    """The shortest and the longest token, bytes."""
    if tokens is None:
        return 0, 0
    if isinstance(tokens, TextColumn):
        lengths = tokens.lengths()
        return int(lengths.min()), int(lengths.max())
    return tokens.shape[1], tokens.shape[1]


def _by_length(tokens: Tokens | None) -> list[Rows]:
    """Indexes of the tokens of each length."""
    if not isinstance(tokens, TextColumn):
        return []
    lengths = tokens.lengths()
    return [np.flatnonzero(lengths == length) for length in np.unique(lengths).tolist()]


assert {"token", "message_id", "address"} == ROW_SLOTS, "_render_shared knows the width of each row slot"

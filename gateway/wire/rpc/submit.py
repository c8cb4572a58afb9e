"""Submit -> Submission: the columns of one submit call, checked; faulty rows refused alone.

    payload --codec--> Submit --check_submit--> Submission (gateway/batch.py)

Order of the checks: sizes of all columns (a wrong one fails the request), contents (once each), index, target, token,
variables, and last the duplicates among the rows that are left. A row is refused for the first fault found.
Measured on one core of a 2-core machine, duplicates included: 10,000 device ids with one content 14 ns a row, with two
variable columns 43 ns, tokens of 64 bytes 190 ns, 10,000 distinct contents 1.2 us; a call of one row 7 us in all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping

import msgspec
import numpy as np

from gateway.batch import RowFault, Submission
from gateway.columns import U8, U16, U32, TextColumn, drained
from gateway.content import Fault, Variant, check_variant, fallback_variables, variable_names
from gateway.ledger import VENDOR_CHANNELS, Channel
from gateway.regions import VENDORS
from gateway.wire.rpc import codec
from gateway.wire.rpc.columns_in import (
    ID_BYTES,
    Refusals,
    byte_column,
    check_shown,
    check_texts_in_steps,
    id_column,
    index_column,
    text_column,
)
from gateway.wire.rpc.duplicates import duplicate_targets
from gateway.wire.rpc.faults import BadRequest
from gateway.wire.rpc.limits import RpcLimits
from gateway.wire.rpc.messages import RefusedRow, Submit, SubmitAudience, Submitted, Texts
from gateway.wire.rpc.targets_in import (
    ZERO_ID,
    CheckTokens,
    ask_vendors,
    channel_codes,
    check_token_form,
    refuse_zero_ids,
)

#: Hashed at about a gigabyte a second.
_DIGEST_STEP_BYTES = 1 << 19
#: Checked at about a million a second.
_CONTENTS_PER_STEP = 512


def decode_submit(
    payload: bytes, *, check_tokens: CheckTokens | None = None, limits: RpcLimits | None = None
) -> Submission:
    """The submission in one payload, whatever its connection. Raises BadRequest when it is none as a whole."""
    message = codec.decode_from_client(payload)
    if isinstance(message, codec.Mended):
        return check_submit(message.submit, check_tokens, limits, message.faults)
    if isinstance(message, Submit):
        return check_submit(message, check_tokens, limits)
    if isinstance(message, codec.Faulty):
        raise BadRequest(message.field, message.text, code=message.code)
    if isinstance(message, codec.Broken):
        raise BadRequest("", message.text, code="bad_frame")
    raise BadRequest("kind", "expected submit")


def submit_digest(submit: Submit) -> bytes:
    """16 bytes that two calls share when they differ in nothing but their request number.

    What `request_id` is compared by: the same id with another digest is `request_id_reused`.
    """
    return drained(submit_digest_in_steps(submit))


def submit_digest_in_steps(submit: Submit) -> Generator[None, None, bytes]:
    """`submit_digest`, interrupted every half megabyte of columns: half a millisecond of hashing."""
    buffers: dict[str, bytes | memoryview | None] = {
        "index": submit.index,
        "device_ids": submit.device_ids,
        "vendor_index": submit.vendor_index,
    }
    texts = {"tokens": submit.tokens} | {
        f"variables.{name}": column for name, column in (submit.variables or {}).items()
    }
    for name, column in texts.items():
        if column is not None:
            buffers[f"{name}.blob"], buffers[f"{name}.offsets"] = column.blob, column.offsets
    # Without variables braces are literal, so an empty map of them is something else.
    variables: dict[str, Texts] | None = None if submit.variables is None else {}
    rest = msgspec.structs.replace(
        submit, id=1, index=None, device_ids=None, vendor_index=None, tokens=None, variables=variables
    )
    digest = hashlib.blake2b(codec.encode(rest), digest_size=16)
    for name, buffer in buffers.items():
        if buffer is not None:
            digest.update(b"%s %d " % (name.encode(), len(buffer)))
            for first in range(0, len(buffer), _DIGEST_STEP_BYTES):
                digest.update(memoryview(buffer)[first : first + _DIGEST_STEP_BYTES])
                if len(buffer) > _DIGEST_STEP_BYTES:
                    yield
    return digest.digest()


def audience_digest(message: SubmitAudience) -> bytes:
    """As `submit_digest`, of a call for an audience."""
    return hashlib.blake2b(codec.encode(msgspec.structs.replace(message, id=1)), digest_size=16).digest()


def unknown_alias(message: SubmitAudience, place: int) -> RefusedRow:
    """Why one alias of an audience gets nothing."""
    whose = "no device that is online has" if message.online_only else "no device has"
    return RefusedRow(place, f"aliases[{place}]", f"{whose} the alias {message.aliases[place]!r}")


def submitted(submit: Submit, submission: Submission, task_id: bytes) -> Submitted:
    """The answer to a submit whose accepted rows are durable as task_id."""
    duplicates = submission.duplicates
    return Submitted(
        id=submit.id,
        task_id=task_id,
        accepted=submission.n,
        refused=[RefusedRow(*fault) for fault in submission.faults],
        refused_count=submit.n - submission.n,
        duplicates=0 if duplicates is None else int(np.count_nonzero(duplicates)),
    )


def check_submit(
    submit: Submit,
    check_tokens: CheckTokens | None = None,
    limits: RpcLimits | None = None,
    content_faults: Mapping[int, Fault] | None = None,
    names: Mapping[str, Channel] = VENDOR_CHANNELS,
) -> Submission:
    """The accepted rows of the call. Raises BadRequest when a column does not fit.

    content_faults: position -> fault of contents that could not be read (codec.Mended). names: of the app's channels.
    submission.faults lists at most limits.refused_rows_max rows; submit.n - submission.n is the true count.
    """
    if not content_faults:
        plain = _check_plain(submit)
        if plain is not None:
            return plain
    return drained(check_submit_in_steps(submit, check_tokens, limits, content_faults, names))


def _check_plain(submit: Submit) -> Submission | None:
    """`check_submit` for what most calls are, one content for one device and no fault; None for any other call.

    A third of the price of the questions that only larger ones raise.
    """
    if (
        submit.n != 1
        or len(submit.contents) != 1
        or submit.index is not None
        or submit.device_ids is None
        or len(submit.device_ids) != ID_BYTES
        or submit.tokens is not None
        or submit.vendor_index is not None
        or submit.vendors
        or submit.variables is not None
    ):
        return None
    device_id = bytes(submit.device_ids)
    variant = submit.contents[0]
    if variant.raw is not None or device_id == ZERO_ID or _content_fault(variant, None) is not None:
        return None
    ids = np.frombuffer(bytearray(device_id), np.uint8).reshape(1, ID_BYTES)
    return Submission(submit.request_id, submit.contents, 1, None, ids, None, None, None, {}, None, [], submit.group)


def check_submit_in_steps(
    submit: Submit,
    check_tokens: CheckTokens | None = None,
    limits: RpcLimits | None = None,
    content_faults: Mapping[int, Fault] | None = None,
    names: Mapping[str, Channel] = VENDOR_CHANNELS,
) -> Generator[None, None, Submission]:
    """`check_submit`, interrupted between columns: a column of megabytes takes milliseconds."""
    limits = limits or _DEFAULT_LIMITS
    n = submit.n
    if n > limits.submit_rows_max:
        raise BadRequest(
            "n", f"n is {n}, limit {limits.submit_rows_max} (submit_rows_max)", limit=limits.submit_rows_max, value=n
        )
    refusals = Refusals(n, limits.refused_rows_max)
    index = yield from _check_contents(submit, content_faults or {}, refusals)
    yield
    device_ids, channels, tokens = _check_targets(submit, check_tokens, names, refusals)
    variables: dict[str, TextColumn] = {}
    if submit.variables:
        for name, texts in submit.variables.items():
            yield
            field = f"variables.{name}"
            variables[name] = text_column(field, texts, n)
            yield from check_texts_in_steps(field, variables[name], limits.variable_bytes_max, refusals)
            yield
            check_shown(field, variables[name], refusals)
        yield
    variants = submit.contents
    if any(variant.raw is not None for variant in variants):
        variants = [_json_raw(variant) for variant in variants]
    source_rows: U32 | None = None
    faults: list[RowFault] = []
    if not refusals.is_empty:
        source_rows = refusals.kept()
        assert source_rows is not None
        n = len(source_rows)
        faults = refusals.faults()
        device_ids = device_ids[source_rows]
        index = None if index is None else index[source_rows]
        channels = None if channels is None else channels[source_rows]
        tokens = None if tokens is None else tokens.take(source_rows)
        variables = {name: column.take(source_rows) for name, column in variables.items()}
    duplicates = None if submit.allow_duplicates else duplicate_targets(device_ids, channels, tokens)
    return Submission(
        submit.request_id,
        variants,
        n,
        source_rows,
        device_ids,
        channels,
        tokens,
        index,
        variables,
        duplicates,
        faults,
        submit.group,
    )


_DEFAULT_LIMITS = RpcLimits()


def checked_content(field: str, variant: Variant) -> Variant:
    """A content of a request other than `submit`, in the gateway's words. Raises BadRequest."""
    fault = _content_fault(variant, None)
    if fault is not None:
        raise BadRequest(f"{field}.{fault.field}", fault.text)
    return _json_raw(variant)


def _check_contents(
    submit: Submit, known: Mapping[int, Fault], refusals: Refusals
) -> Generator[None, None, U16 | None]:
    """(n,) uint16 into contents, or None when there is one content; rows of faulty contents are refused."""
    contents = submit.contents
    faults = dict(known)
    names = None if submit.variables is None else submit.variables.keys()
    for position, variant in enumerate(contents):
        if position % _CONTENTS_PER_STEP == _CONTENTS_PER_STEP - 1:
            yield
        if position not in faults:
            fault = _content_fault(variant, names)
            if fault is not None:
                faults[position] = fault
    n, count = submit.n, len(contents)
    if submit.index is None:
        if count != 1:
            raise BadRequest("index", f"{count} contents need an index column")
        if faults:
            refusals.refuse(np.ones(n, np.bool_), faults[0])
        return None
    wide = index_column("index", submit.index, n)
    outside = wide >= count
    if outside.any():
        refusals.refuse(outside, lambda row: Fault("index", f"index is {wide[row]}, {count} contents"))
        wide[outside] = 0
    if faults:
        is_faulty = np.zeros(count, np.bool_)
        is_faulty[list(faults)] = True
        refusals.refuse(is_faulty[wide], lambda row: faults[int(wide[row])])
    return None if count == 1 else wide.astype(np.uint16)


def _content_fault(variant: Variant, columns: object) -> Fault | None:
    """columns: names of the variable columns, or None in a submit without variables, where braces are literal."""
    fault = check_variant(variant)
    if fault is None and columns is not None:
        missing = variable_names(variant).difference(columns)  # type: ignore[arg-type]
        if missing:
            return Fault("variables", f"variable {min(missing)} has no column")
    if fault is None and variant.fallback:
        missing = fallback_variables(variant).difference(columns or ())  # type: ignore[arg-type]
        if missing:
            return Fault("fallback", f"variable {min(missing)} has no column")
    if fault is None and variant.raw is not None:
        return _raw_fault(variant.raw)
    return fault


def _raw_fault(raw: Mapping[str, msgspec.Raw]) -> Fault | None:
    for vendor, value in raw.items():
        if vendor not in VENDORS:
            return Fault("raw", f"raw names {vendor[:64]!r}, which is no vendor")
        try:
            if not isinstance(msgspec.json.decode(_to_json(value)), dict):
                return Fault("raw", f"raw of {vendor} is not a map")
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError):
            return Fault("raw", f"raw of {vendor} cannot be written as JSON")
    return None


def _to_json(value: msgspec.Raw) -> bytes:
    return msgspec.json.encode(msgspec.msgpack.decode(value))


def _json_raw(variant: Variant) -> Variant:
    """On the wire `raw` is MessagePack like all else; the gateway's words hold JSON (content.py)."""
    if variant.raw is None:
        return variant
    if _raw_fault(variant.raw) is not None:
        # Its rows are refused; what nobody can read must not go on as if it were JSON.
        return msgspec.structs.replace(variant, raw=None)
    return msgspec.structs.replace(variant, raw={name: msgspec.Raw(_to_json(raw)) for name, raw in variant.raw.items()})


def _check_targets(
    submit: Submit, check_tokens: CheckTokens | None, names: Mapping[str, Channel], refusals: Refusals
) -> tuple[U8, U8 | None, TextColumn | None]:
    """Device ids, channel codes and tokens as in Submission."""
    n = submit.n
    if submit.tokens is None:
        if submit.vendor_index is not None or submit.vendors:
            raise BadRequest("tokens", "vendors without tokens")
        if submit.device_ids is None:
            raise BadRequest("device_ids", "neither device_ids nor tokens")
        device_ids = id_column("device_ids", submit.device_ids, n)
        refuse_zero_ids(device_ids, None, refusals)
        return device_ids, None, None
    channels = _channel_column(submit, names, refusals)
    tokens = text_column("tokens", submit.tokens, n)
    is_token = channels != 0
    check_token_form("tokens", tokens, is_token, refusals)
    if submit.device_ids is None:
        device_ids = np.zeros((n, 16), np.uint8)
        if not is_token.all():
            refusals.refuse(~is_token, Fault("to", "a device target without device_ids"))
    else:
        device_ids = id_column("device_ids", submit.device_ids, n)
        device_ids[is_token] = 0
        refuse_zero_ids(device_ids, ~is_token, refusals)
    if check_tokens is not None:
        ask_vendors(channels, tokens, check_tokens, refusals)
    return device_ids, channels, tokens


def _channel_column(submit: Submit, names: Mapping[str, Channel], refusals: Refusals) -> U8:
    """(n,) uint8 channel codes, 0 for devices; UNKNOWN_CHANNEL in rows that are refused for it."""
    if submit.vendor_index is None:
        if submit.device_ids is not None or len(submit.vendors) != 1:
            raise BadRequest("vendor_index", "vendor_index may be absent only with one vendor and no device_ids")
        position = np.ones(submit.n, np.uint8)
    else:
        position = byte_column("vendor_index", submit.vendor_index, submit.n)
    return channel_codes("vendor", submit.vendors, position, refusals, names)

"""Every message of the RPC, long because each is a struct here: one MessagePack map each, tagged by `kind`.

docs/rpc.md says the same for other languages.

Rules for authors: a field that is added needs a default and a new row in docs/rpc.md; a field is never renamed or
reused; an unknown field is refused, so a client learns the server's version from `challenge` before it uses one.

Columns are MessagePack bin: little-endian arrays, one element per row. `memoryview` fields are views of the payload;
`bytes` fields are copies.

    server                                       client
      challenge ------------------------------------>
      <-------------------------------------- hello
      welcome -------------------------------------->
      <------------------- requests, each with its id    (many in flight)
      answers, each with its request's id ---------->    (any order)
      credit --------------------------------------->    (room for further submits)
      receipts ------------------------------------->    (while the client's credit for the stream lasts)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.content import Variant
from gateway.wire.rpc import limits as _limits
from gateway.wire.rpc.faults import Code

U32_MAX = (1 << 32) - 1
#: Chosen by the client; 0 is no request (an `error` that answers none).
RequestNumber = Annotated[int, Meta(ge=1, le=U32_MAX)]
AnyNumber = Annotated[int, Meta(ge=0, le=U32_MAX)]
Count = Annotated[int, Meta(ge=0)]
Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Line = Annotated[str, Meta(max_length=_limits.REQUEST_ID_CHARACTERS_MAX)]
AppKey = Annotated[str, Meta(max_length=_limits.APP_KEY_CHARACTERS_MAX)]
ChannelNames = Annotated[list[str], Meta(max_length=_limits.VENDORS_MAX)]
Names = Annotated[list[str], Meta(max_length=256)]
Day = Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?$")]
Alias = Annotated[str, Meta(min_length=1, max_length=_limits.REGISTERED_TEXT_BYTES_MAX)]
RowCount = Annotated[int, Meta(ge=1, le=_limits.ROWS_MAX)]


def _kind(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class Message(msgspec.Struct, tag_field="kind", tag=_kind, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all messages. The kind is the class name in snake case."""


class Texts(msgspec.Struct, forbid_unknown_fields=True):
    """A column of texts: row i is blob[offsets[i]:offsets[i + 1]]. offsets: n + 1 little-endian u32, first 0."""

    blob: bytes
    offsets: memoryview


# --- greeting -----------------------------------------------------------------------------------------------------


class Challenge(Message, kw_only=True):
    """server, first frame of every connection. frame_bytes_max: limit until welcome."""

    version: int
    nonce: Nonce
    frame_bytes_max: int


class Hello(Message, kw_only=True):
    """client. mac: proof.py. An operator sends app_key "" and, on the operator's Unix socket, an empty mac."""

    version: int
    app_key: AppKey
    nonce: Nonce
    mac: Annotated[bytes, Meta(max_length=32)] = b""
    role: Literal["app", "operator"] = "app"


class Limits(msgspec.Struct, kw_only=True):
    """What the server holds a client to. A client ignores fields that it does not know."""

    frame_bytes_max: int
    submit_rows_max: int
    refused_rows_max: int
    variable_bytes_max: int
    requests_in_flight_max: int
    streams_max: int


class CodeNames(msgspec.Struct):
    """Name of each code in u8 columns; index = code, "" where a code is not in use."""

    states: list[str]
    reasons: list[str]
    channels: list[str]
    receipts: list[str]


class Welcome(Message, kw_only=True):
    """server. mac proves that the server knows the secret too (empty where hello needed none)."""

    mac: bytes
    session: str
    credit_rows: int
    credit_bytes: int
    limits: Limits
    names: CodeNames


# --- requests -----------------------------------------------------------------------------------------------------


class Submit(Message, kw_only=True):
    """n notifications. Answer: submitted. Absent columns: docs/rpc.md, "submit"."""

    id: RequestNumber
    contents: Annotated[list[Variant], Meta(min_length=1, max_length=_limits.CONTENTS_MAX)]
    n: RowCount
    index: memoryview | None = None
    device_ids: memoryview | None = None
    vendors: ChannelNames = []
    vendor_index: memoryview | None = None
    tokens: Texts | None = None
    variables: Annotated[dict[str, Texts], Meta(max_length=_limits.VARIABLES_MAX)] | None = None
    request_id: Line = ""
    allow_duplicates: bool = False
    group: Annotated[str, Meta(max_length=_limits.GROUP_CHARACTERS_MAX)] = ""
    #: A task of the same app that these rows become part of; absent: a new one.
    task_id: Id16 | None = None


class SubmitAudience(Message, kw_only=True):
    """One notification to all devices of the app, to those with the tag, or to those of the aliases, as one task.

    rows_per_s: at most so many; absent: as fast as there is room. online_only: only to those that are online now.
    Answer: audience_submitted.
    """

    id: RequestNumber
    content: Variant
    tag: Annotated[str, Meta(max_length=_limits.TAG_CHARACTERS_MAX)] = ""
    rows_per_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    request_id: Line = ""
    aliases: Annotated[list[Alias], Meta(max_length=_limits.AUDIENCE_ALIASES_MAX)] = []
    online_only: bool = False


class TaskState(Message, kw_only=True):
    """Where the rows of a task are. Answer: task_counts."""

    id: RequestNumber
    task_id: Id16


class StopTask(Message, kw_only=True):
    """No row of the task that is not under way goes out any more; later submits to it are refused. Answer:
    task_stopped."""

    id: RequestNumber
    task_id: Id16


class RevokeTask(Message, kw_only=True):
    """The task is stopped, and what it shows is taken back, or replaced. Answer: task_revoked."""

    id: RequestNumber
    task_id: Id16
    replacement: Variant | None = None


class TaskRows(Message, kw_only=True):
    """Rows of a task in order from `first`, at most n, only those in the named states or with the named reasons.

    Answer: task_row_page.
    """

    id: RequestNumber
    task_id: Id16
    first: Count = 0
    n: Annotated[int, Meta(ge=1, le=1 << 16)] = 1000
    states: Names | None = None
    reasons: Names | None = None


class Trace(Message, kw_only=True):
    """The way of one message: by message_id, or by task_id and device_id. Answer: trace_hops."""

    id: RequestNumber
    task_id: Id16 | None = None
    device_id: Id16 | None = None
    message_id: Id16 | None = None


class CountRows(Message, kw_only=True):
    """Rows counted by what they are: of a task; or of a plan, a group, an app, by the days of their submits.

    from_day, to_day: YYYY-MM-DD, both included; absent: docs/rpc.md. recount: from the rows themselves, compared with
    the counters. Answer: rows_counted.
    """

    id: RequestNumber
    task_id: Id16 | None = None
    plan_id: Line = ""
    group: Line = ""
    app_key: AppKey = ""
    from_day: Day = ""
    to_day: Day = ""
    recount: bool = False


class Loss(Message, kw_only=True):
    """How far the same rows came, and what stopped the others. Answer: loss_found."""

    id: RequestNumber
    task_id: Id16 | None = None
    plan_id: Line = ""
    group: Line = ""
    app_key: AppKey = ""
    from_day: Day = ""
    to_day: Day = ""


class LossRows(Message, kw_only=True):
    """Of the same rows those with one cause, about n at a time. cursor: of the page before. Answer: loss_row_page."""

    id: RequestNumber
    cause: Line
    task_id: Id16 | None = None
    plan_id: Line = ""
    group: Line = ""
    app_key: AppKey = ""
    from_day: Day = ""
    to_day: Day = ""
    channel: Line = ""
    stage: Line = ""
    n: Annotated[int, Meta(ge=1, le=1 << 16)] = 1000
    cursor: Annotated[bytes, Meta(max_length=64)] = b""


class RegisterDevices(Message, kw_only=True):
    """n devices, each written whole: what is absent here is absent afterwards. Answer: devices_registered.

    tags: per row the device's tags joined by a newline. want_passwords: the answer carries `passwords`.
    """

    id: RequestNumber
    n: RowCount
    device_ids: memoryview
    channels: ChannelNames = []
    channel_index: memoryview | None = None
    tokens: Texts | None = None
    proven_unix_s: memoryview | None = None
    platform: Texts | None = None
    app_version: Texts | None = None
    time_zone: Texts | None = None
    alias: Texts | None = None
    tags: Texts | None = None
    notifications_closed: memoryview | None = None
    want_passwords: bool = False


class EraseDevices(Message, kw_only=True):
    """n devices are forgotten, on the disk too, with what waits for them; an operator names the app.

    Answer: devices_erased.
    """

    id: RequestNumber
    n: RowCount
    device_ids: memoryview
    app_key: AppKey = ""


class BlockDevices(Message, kw_only=True):
    """Nothing is sent to n devices from now on, or (blocked: false) may be again. Answer: devices_blocked."""

    id: RequestNumber
    n: RowCount
    device_ids: memoryview
    blocked: bool = True
    app_key: AppKey = ""


class ReportConsents(Message, kw_only=True):
    """n users agreed to so many messages of a template more, or (is_total) have just so many left. counts absent: one
    each; 0: to ask. An operator names the app. Answer: consents_reported."""

    id: RequestNumber
    n: RowCount
    users: Texts
    templates: Annotated[list[Line], Meta(min_length=1, max_length=256)]
    template_index: memoryview | None = None
    counts: memoryview | None = None
    is_total: bool = False
    app_key: AppKey = ""


class Device(Message, kw_only=True):
    """One device by id or by alias; an operator names the app. Answer: device_found."""

    id: RequestNumber
    device_id: Id16 | None = None
    alias: Line = ""
    app_key: AppKey = ""


class DeviceStatus(Message, kw_only=True):
    """Presence of n devices by id; an operator names the app. Answer: device_statuses."""

    id: RequestNumber
    n: Annotated[int, Meta(ge=1, le=_limits.STATUS_ROWS_MAX)]
    device_ids: memoryview
    app_key: AppKey = ""


class OnlineCounts(Message, kw_only=True):
    """How many devices are online, now and over 24 hours; an operator names the app. Answer: online_counted."""

    id: RequestNumber
    tag: Line = ""
    app_key: AppKey = ""


class Status(Message, kw_only=True):
    """operator. Answer: gateway_status."""

    id: RequestNumber


class StoredRows(Message, kw_only=True):
    """operator. Rows that wait for their devices: counted, and the first n listed. Answer: stored_rows_found."""

    id: RequestNumber
    app_key: AppKey = ""
    device_id: Id16 | None = None
    task_id: Id16 | None = None
    older_than_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    n: Annotated[int, Meta(ge=0, le=1000)] = 100


class PurgeStored(Message, kw_only=True):
    """operator. Rows that wait for their devices end cancelled. Answer: stored_purged."""

    id: RequestNumber
    app_key: AppKey = ""
    device_id: Id16 | None = None
    task_id: Id16 | None = None
    older_than_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


class Backup(Message, kw_only=True):
    """operator. The stores are copied into a new folder on the gateway's machine. Answer: backed_up."""

    id: RequestNumber
    folder: Annotated[str, Meta(min_length=1, max_length=4096)]


class ClockAdvance(Message, kw_only=True):
    """operator, development clock only. Answer: clock_advanced."""

    id: RequestNumber
    seconds: Annotated[float, Meta(ge=0, le=1e9)]


class Restart(Message, kw_only=True):
    """operator, several workers only: one after the other is started anew. may_lose: though rows that are in memory
    alone would be lost. Answer: restarted, when the last one is ready again."""

    id: RequestNumber
    may_lose: bool = False


class SubscribeReceipts(Message, kw_only=True):
    """Starts a stream of `receipts` after the cursor (empty: from now on). credit_rows: rows that may come at once."""

    id: RequestNumber
    cursor: Annotated[bytes, Meta(max_length=256)] = b""
    credit_rows: AnyNumber = 0


class SubscribePresence(Message, kw_only=True):
    """Starts a stream of `presence_changes` after the cursor (empty: from now on). credit_rows: as for receipts."""

    id: RequestNumber
    cursor: Annotated[bytes, Meta(max_length=256)] = b""
    credit_rows: AnyNumber = 0


class Cancel(Message, kw_only=True):
    """client: the stream `id` ends; the server answers stream_ended."""

    id: RequestNumber


class Ping(Message, kw_only=True):
    """Answer: pong, from the session machine itself."""

    id: RequestNumber


class Credit(Message, kw_only=True):
    """Further room. server (id 0): rows and bytes of submits. client (id of its stream): rows of its pages."""

    rows: AnyNumber
    bytes: AnyNumber = 0
    id: AnyNumber = 0


# --- answers ------------------------------------------------------------------------------------------------------


class Error(Message, kw_only=True):
    """The request was not done, or (id 0) the connection ends. field, limit, value: what to mend."""

    id: AnyNumber
    code: Code
    text: str
    field: str = ""
    limit: int | None = None
    value: int | None = None
    retry_after_ms: int | None = None


class RefusedRow(msgspec.Struct, array_like=True, frozen=True):
    """[row, field, text]; row: position in the call as sent."""

    row: int
    field: str
    text: str


class Submitted(Message, kw_only=True):
    """accepted + refused_count = n of the submit; duplicates are accepted rows that end dropped at once."""

    id: RequestNumber
    task_id: Id16
    accepted: int
    refused: list[RefusedRow] = []
    refused_count: int = 0
    duplicates: int = 0


class AudienceSubmitted(Message, kw_only=True):
    """devices: of the audience; its rows are accepted one after the other. task_id: zeros when there are none.
    refused: aliases that no device has; `row` is the place in the call's list."""

    id: RequestNumber
    task_id: Id16
    devices: int
    refused: list[RefusedRow] = []


class Latency(msgspec.Struct, kw_only=True):
    """Submit to final state, rows that waited for a device or a moved clock left out. n: rows measured."""

    n: int
    p50: float
    p99: float
    max: float


class TaskCounts(Message, kw_only=True):
    """states sums to accepted at any moment. channels: channel name -> state name -> rows."""

    id: RequestNumber
    task_id: Id16
    accepted: int
    states: dict[str, int]
    channels: dict[str, dict[str, int]]
    reasons: dict[str, int]
    receipts: dict[str, int]
    is_routed: bool
    is_final: bool
    handed_over_unacked: int = 0
    waited_offline: int = 0
    submitted_unix_ms: int = 0
    #: Per channel, and "all".
    latency_ms: dict[str, Latency] = {}
    #: Rows by the group of their submit, and by the plan of their content, where they have one.
    groups: dict[str, int] = {}
    plans: dict[str, int] = {}
    #: Of an audience that is not through: how many devices it had at its submit.
    audience_devices: int = 0


class TaskStopped(Message, kw_only=True):
    """cancelled: rows that this call ended; may_have_arrived: of them, those whose device may have seen an earlier
    attempt. states, channels: where all rows of the task are now, as in task_counts. is_final: none is in flight."""

    id: RequestNumber
    task_id: Id16
    cancelled: int
    may_have_arrived: int
    accepted: int
    states: dict[str, int]
    channels: dict[str, dict[str, int]]
    is_final: bool


class TaskRevoked(Message, kw_only=True):
    """channels: channel -> outcome (docs/rpc.md) -> rows; sums to the rows of the task. revoke_task_id: of what devices
    are told, zeros where there was nothing to tell. cancelled, may_have_arrived: as in task_stopped."""

    id: RequestNumber
    task_id: Id16
    revoke_task_id: Id16
    cancelled: int
    may_have_arrived: int
    channels: dict[str, dict[str, int]]


class TaskRowPage(Message, kw_only=True):
    """Columns of n rows. row: u32, position in the submit as sent. next_first: where to go on, absent at the end."""

    id: RequestNumber
    n: int
    row: memoryview
    state: memoryview
    reason: memoryview
    channel: memoryview
    receipt: memoryview
    flags: memoryview
    attempts: memoryview
    device_ids: memoryview
    message_ids: memoryview
    next_first: int | None = None


class Hop(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing that happened to a message. what: submitted, routed, issued, answered, state, receipt, ..."""

    at_unix_ms: int
    what: str
    channel: str = ""
    connection: str = ""
    attempt: int = 0
    verdict: str = ""
    name: str = ""
    state: str = ""
    reason: str = ""
    receipt: str = ""
    #: The vendor's own name for the request.
    request: str = ""
    text: str = ""


class TraceHops(Message, kw_only=True):
    id: RequestNumber
    task_id: Id16
    message_id: Id16
    hops: list[Hop]
    group: str = ""
    plan_id: str = ""


class CountKey(msgspec.Struct, array_like=True, frozen=True):
    """[day, app key, plan id, group, class]; class: system or marketing."""

    day: str
    app_key: str
    plan_id: str
    group: str
    class_: str


class RowsCounted(Message, kw_only=True):
    """Columns of n counts. key: u32, position in keys. flags: bit 1 it was sent, bit 2 notifications are closed. rows:
    u64. rows_gone: counted rows whose pages are deleted. differing: counts that differ from the counters (recount).
    went_on: channel -> rows that it had and that went on to another one, where they are counted."""

    id: RequestNumber
    n: int
    keys: list[CountKey]
    key: memoryview
    channel: memoryview
    state: memoryview
    reason: memoryview
    receipt: memoryview
    flags: memoryview
    rows: memoryview
    rows_gone: int = 0
    differing: int = 0
    went_on: dict[str, int] = {}


class LossLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Rows that came as far as `stage`. bucket: GeTui's cause, d2 to d14. is_open: they are still under way."""

    channel: str
    stage: str
    cause: str
    rows: int
    bucket: str = ""
    is_open: bool = False
    advice: str = ""


class LossFound(Message, kw_only=True):
    """channels: name -> rows that reached each of the stages. What is lost between two stages are the lines of the
    first of them. went_on: channel -> rows that it had before they went on to the channel under which they count."""

    id: RequestNumber
    stages: list[str]
    channels: dict[str, list[int]]
    losses: list[LossLine]
    from_day: str = ""
    to_day: str = ""
    rows_gone: int = 0
    went_on: dict[str, int] = {}


class LossRowPage(Message, kw_only=True):
    """Columns of n rows; words: the vendor's own, where it had any. next_cursor: where to go on, empty at the end; n
    may be 0 before it."""

    id: RequestNumber
    n: int
    task_ids: memoryview
    device_ids: memoryview
    message_ids: memoryview
    channel: memoryview
    state: memoryview
    reason: memoryview
    receipt: memoryview
    attempts: memoryview
    born_unix_ms: memoryview
    final_unix_ms: memoryview
    words: Texts
    next_cursor: bytes = b""


class DevicesRegistered(Message, kw_only=True):
    """registered + refused_count = n of the call. passwords: n rows, where they were asked for."""

    id: RequestNumber
    registered: int
    refused: list[RefusedRow] = []
    refused_count: int = 0
    passwords: Texts | None = None


class DevicesErased(Message, kw_only=True):
    """erased: devices that were known."""

    id: RequestNumber
    erased: int


class DevicesBlocked(Message, kw_only=True):
    """known: devices whose state this is now; the others are not registered."""

    id: RequestNumber
    known: int


class ConsentsReported(Message, kw_only=True):
    """left: u32, what each row's user has left of its template after the call, without what rows are under way with."""

    id: RequestNumber
    n: int
    left: memoryview


class StoredRowsFound(Message, kw_only=True):
    """rows, bytes (of text), devices: of all. Columns of the first n: born_unix_ms, deadline_unix_ms are u64."""

    id: RequestNumber
    rows: int
    bytes: int
    devices: int
    n: int
    device_ids: memoryview
    born_unix_ms: memoryview
    deadline_unix_ms: memoryview


class StoredPurged(Message, kw_only=True):
    id: RequestNumber
    rows: int


class BackedUp(Message, kw_only=True):
    """files: name -> bytes."""

    id: RequestNumber
    files: dict[str, int]


class DeviceFound(Message, kw_only=True):
    """facts: docs/rpc.md, "device". No device token is among them, only its hash."""

    id: RequestNumber
    device_id: Id16
    facts: dict[str, Any]


class DeviceStatuses(Message, kw_only=True):
    """Columns of n devices. since: of the session, or of its end. Codes of address_class: docs/rpc.md."""

    id: RequestNumber
    n: int
    is_known: memoryview
    is_online: memoryview
    since_unix_s: memoryview
    last_seen_unix_s: memoryview
    address_class: memoryview
    platform: Texts


class OnlineCounted(Message, kw_only=True):
    """online: u32 per platform. at_unix_s: u32, n ends of 10-minute slots, oldest first. history: u32, n rows of one
    value per platform. tagged: devices online with the tag that was asked for; tag_at_unix_s, tag_history: u32, the
    slots for which it is known and how many were online then."""

    id: RequestNumber
    platforms: list[str]
    online: memoryview
    n: int
    at_unix_s: memoryview
    history: memoryview
    tagged: int | None = None
    tag_at_unix_s: memoryview | None = None
    tag_history: memoryview | None = None


class GatewayStatus(Message, kw_only=True):
    id: RequestNumber
    facts: dict[str, Any]


class ClockAdvanced(Message, kw_only=True):
    id: RequestNumber
    now_unix_ms: int


class WorkerRestart(msgspec.Struct, forbid_unknown_fields=True):
    """outcome: restarted; or kept, with the rows that would have been lost by state: that worker goes on as it was."""

    worker: int
    outcome: Literal["restarted", "kept"]
    rows_open: dict[str, int]
    took_ms: int


class Restarted(Message, kw_only=True):
    """In the order in which it was done."""

    id: RequestNumber
    workers: list[WorkerRestart]


class Receipts(Message, kw_only=True):
    """n changes, oldest first. cursor: give it to subscribe_receipts to go on after these. at_unix_ms: u64."""

    id: RequestNumber
    cursor: bytes
    n: int
    message_ids: memoryview
    device_ids: memoryview
    state: memoryview
    reason: memoryview
    receipt: memoryview
    channel: memoryview
    at_unix_ms: memoryview


class PresenceChanges(Message, kw_only=True):
    """n changes, oldest first. cursor: as of receipts. change, state: docs/rpc.md. at_unix_ms: u64."""

    id: RequestNumber
    cursor: bytes
    n: int
    device_ids: memoryview
    change: memoryview
    state: memoryview
    at_unix_ms: memoryview


class StreamEnded(Message, kw_only=True):
    """The answer to cancel; nothing with this id follows."""

    id: RequestNumber


class Pong(Message, kw_only=True):
    id: RequestNumber


#: What a client may send, and what a server may send.
Request: TypeAlias = (
    Submit
    | SubmitAudience
    | TaskState
    | StopTask
    | RevokeTask
    | TaskRows
    | Trace
    | CountRows
    | Loss
    | LossRows
    | RegisterDevices
    | EraseDevices
    | BlockDevices
    | ReportConsents
    | Device
    | DeviceStatus
    | OnlineCounts
    | Status
    | StoredRows
    | PurgeStored
    | Backup
    | ClockAdvance
    | Restart
    | SubscribeReceipts
    | SubscribePresence
    | Cancel
    | Ping
)
FromClient: TypeAlias = Hello | Credit | Request
Answer: TypeAlias = (
    Error
    | Submitted
    | AudienceSubmitted
    | TaskCounts
    | TaskStopped
    | TaskRevoked
    | TaskRowPage
    | TraceHops
    | RowsCounted
    | LossFound
    | LossRowPage
    | DevicesRegistered
    | DevicesErased
    | DevicesBlocked
    | ConsentsReported
    | StoredRowsFound
    | StoredPurged
    | BackedUp
    | DeviceFound
    | DeviceStatuses
    | OnlineCounted
    | GatewayStatus
    | ClockAdvanced
    | Restarted
    | StreamEnded
    | Pong
)
#: What begins a stream, and its pages.
StreamRequest: TypeAlias = SubscribeReceipts | SubscribePresence
StreamPage: TypeAlias = Receipts | PresenceChanges
FromServer: TypeAlias = Challenge | Welcome | Credit | StreamPage | Answer

#: Which answer each request gets, when it is not an error.
ANSWER_OF: dict[type[Message], type[Message]] = {
    Submit: Submitted,
    SubmitAudience: AudienceSubmitted,
    TaskState: TaskCounts,
    StopTask: TaskStopped,
    RevokeTask: TaskRevoked,
    TaskRows: TaskRowPage,
    Trace: TraceHops,
    CountRows: RowsCounted,
    Loss: LossFound,
    LossRows: LossRowPage,
    RegisterDevices: DevicesRegistered,
    EraseDevices: DevicesErased,
    BlockDevices: DevicesBlocked,
    ReportConsents: ConsentsReported,
    StoredRows: StoredRowsFound,
    PurgeStored: StoredPurged,
    Backup: BackedUp,
    Device: DeviceFound,
    DeviceStatus: DeviceStatuses,
    OnlineCounts: OnlineCounted,
    Status: GatewayStatus,
    ClockAdvance: ClockAdvanced,
    Restart: Restarted,
    SubscribeReceipts: StreamEnded,
    SubscribePresence: StreamEnded,
    Cancel: StreamEnded,
    Ping: Pong,
}
#: Which pages each stream has.
PAGE_OF: dict[type[Message], type[Message]] = {SubscribeReceipts: Receipts, SubscribePresence: PresenceChanges}
#: Who may ask what; everything else is for both.
OPERATOR_ONLY: frozenset[type[Message]] = frozenset({Status, StoredRows, PurgeStored, Backup, ClockAdvance, Restart})
APP_ONLY: frozenset[type[Message]] = frozenset(
    {Submit, SubmitAudience, RegisterDevices, SubscribeReceipts, SubscribePresence}
)

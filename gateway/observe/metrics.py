"""The table of metrics: every number the gateway counts, with name, unit, help and labels.

A metric is one line here, one row in `docs/metrics.md` (a test holds the two together) and one call where it happens.
The exported name is `pushgw_` + the name here, `_s` written as `_seconds`, counters with `_total`.

Words: a *row* is one message to one target; a *close reason* ends exactly one connection; a *refusal* is something
that was asked of us and that we did not do, by the name of the limit or rule.
"""

from __future__ import annotations

from gateway.content import Class
from gateway.errors import CloseReason
from gateway.ledger import Channel, Reason, Receipt, State
from gateway.observe.metric_types import MetricSet, counter, gauge, histogram, log_bounds, open_label
from gateway.receipts import Event
from gateway.verdict import Verdict

#: Who listens or connects.
LISTENERS = ("rpc", "operator", "http", "long_link", "vendor", "receipts")
STORES = ("registry", "inbox", "ledger", "spill", "consents")
DIRECTIONS = ("in", "out")
#: sent: to the owner; received: from a home; report_dropped: of rows that the worker did not hold, or of a life that
#: had ended; routed_again, uncertain: of a worker that died; home_died: news for a home that had ended.
LINK_ROWS = ("sent", "received", "reported", "report_dropped", "routed_again", "uncertain", "home_died")
#: Rules of core/admission.py, and the limit that the owner of the devices knows.
LOGIN_RULES = (
    "unknown_app",
    "wrong_password",
    "banned_address",
    "banned_device",
    "login_backoff",
    "app_connections_max",
)
#: Who proves an app secret: a device's password, an RPC client's hello, a signed HTTP request.
SECRET_PLACES = ("device", "rpc", "http")
#: In the words of actors/consents.py.
CONSENT_EVENTS = ("reported", "used", "given_back", "emptied", "refused")
#: In the order of core/breaker.py's enums.
BREAKER_STATES = ("closed", "half_open", "open")
BREAKER_CAUSES = ("none", "failures", "connect", "credential")
#: Why the journal on disk refuses.
JOURNAL_ERRORS = ("full", "read_only", "corrupt", "other")
#: What becomes of rows that a replay finds, as core/recovery.py names it.
RECOVERED_FATES = ("final", "unsent", "resent", "uncertain", "expired", "elsewhere")
#: What becomes of a removal that the unregister guard holds back.
HELD_OUTCOMES = ("held", "dropped", "rechecked", "removed")
#: What becomes of one vendor's receipt of one token. repeated: it said nothing new; forged: its callback parameter is
#: none of ours; not_the_target: no row of its batch went to that token there; dropped: no room on the way to its home;
#: unknown_id: it names a number of the vendor's that nobody was told; passed_on: nobody here, so other workers heard.
RECEIPT_OUTCOMES = (
    *("counted", "repeated", "forged", "no_address", "unknown_row", "not_the_target", "dropped"),
    *("unknown_id", "passed_on"),
)
#: What became of a question what became of messages. open: there is more to come; given_up: it was the last one.
QUESTION_OUTCOMES = ("settled", "open", "later", "refused", "failed", "dropped", "given_up")
#: What becomes of rows that a service is to be told of by HTTP.
CALLBACK_OUTCOMES = ("answered", "refused", "undelivered", "dropped")
#: What a vendor's request was told.
RECEIPT_REQUESTS = ("taken", "not_durable", "unreadable", "unproven", "busy", "too_large", "method", "greeting")
#: Ten microseconds to ten seconds: a step should stay under 2 ms, a stall is seconds.
STEP_BOUNDS_S = log_bounds(1e-5, 10.0, 3)
#: One row to a full batch.
ROWS_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 65_536.0)


class Metrics(MetricSet):
    # rows
    rows_accepted = counter("rows", "Rows accepted at the door, by app", app=open_label())
    rows_refused = counter("rows", "Rows refused in the answer to their submit, by field", field=open_label())
    row_moves = counter("rows", "Rows that entered a state, by channel", channel=Channel, state=State)
    row_reasons = counter("rows", "Rows that got a reason with their state", reason=Reason)
    rows_open = gauge("rows", "Rows that are in an open state now", state=State)
    callback_rows = counter(
        "rows",
        "Rows that services were to be told of by HTTP: answered, refused (status 400 to 499), undelivered, dropped",
        app=open_label(),
        outcome=CALLBACK_OUTCOMES,
    )
    callback_queue_rows = gauge("rows", "Rows that wait to be told to the app's service", app=open_label())
    callback_retries = counter("requests", "Callbacks that had no usable answer and were tried again", app=open_label())
    audiences_running = gauge("audiences", "Audiences that still have devices to come")
    audience_rows_left = counter("rows", "Devices of audiences that got no row, because their worker ended or refused")
    receipts = counter("rows", "Rows whose receipt rose, by channel", channel=Channel, receipt=Receipt)
    rows_duplicate = counter("rows", "Rows dropped because their target came earlier in the same submit")
    rows_handed_over_unacked = counter("rows", "Rows that left the long link without an acknowledgement")
    rows_fell_back = counter("rows", "Rows that went on along their fallback chain, by channel", channel=Channel)
    rows_uncertain = counter("rows", "Rows whose attempt ended without an answer, by channel", channel=Channel)
    rows_resent_uncertain = counter("rows", "Uncertain rows sent again under on_uncertain", channel=Channel)
    rows_truncated = counter("rows", "Rows whose text was cut to a channel's limit", channel=Channel)
    rows_not_conserved = gauge("rows", "Rows accepted less rows in all states; anything but 0 is a bug")
    # batches and their way
    batch_rows = histogram("rows", "Rows per batch", ROWS_BOUNDS)
    submits = counter("submits", "Submit calls by outcome", outcome=("accepted", "repeated", "refused", "overloaded"))
    gather_s = histogram("seconds", "From the first submit of a batch to the batch")
    rows_to_edge = counter("rows", "Rows handed to the long-link edge")
    route_s = histogram("seconds", "From accepting a batch to the end of its routing")
    queue_s = histogram("seconds", "From routing to the first byte of the request, per row", channel=Channel)
    request_s = histogram("seconds", "From the first byte of a request to its verdict, per row", channel=Channel)
    delivery_s = histogram("seconds", "From the submit to acknowledgement or verdict, per row", channel=Channel)
    # the journal on disk
    journal_bytes = gauge("bytes", "Segments of the journal on disk")
    journal_records = gauge("records", "Records of the journal on disk that are not released")
    journal_write_s = histogram("seconds", "Until a record of that kind was durable", what=("batches", "marks"))
    journal_errors = counter("errors", "Times the journal on disk refused, by what was wrong", kind=JOURNAL_ERRORS)
    journal_failed = gauge("state", "1 while intake of apps on disk is stopped by its journal", "max")
    rows_issued_open = gauge("rows", "Rows marked as issued whose outcome is not durable: uncertain after a crash")
    rows_issued_unmarked = counter("rows", "Rows that left although their mark could not be made durable")
    rows_recovered = counter("rows", "Rows found in the journal at start, by what became of them", fate=RECOVERED_FATES)
    recovery_s = gauge("seconds", "What replaying the journal took at start", "max")
    idempotency_ids = gauge("ids", "Request ids that are remembered")
    idempotency_window_s = gauge("seconds", "How far back a repeated request id finds its first answer", "min")
    # vendors
    verdicts = counter("rows", "Verdicts of attempts, by vendor", vendor=Channel, verdict=Verdict)
    verdict_names = counter("rows", "Verdicts by the vendor's own name", vendor=Channel, name=open_label())
    unknown_answers = counter("answers", "Answers that are in no table of the vendor file", vendor=Channel)
    retries = counter("rows", "Rows that wait for another attempt, by why", channel=Channel, reason=Reason)
    tokens_dead = counter("tokens", "Tokens forgotten because the vendor called them dead", vendor=Channel)
    tokens_muted = counter("tokens", "Tokens muted until their device registers again", vendor=Channel)
    tokens_replaced = counter("tokens", "Tokens that a vendor's receipt named another for", vendor=Channel)
    lane_rows = gauge("rows", "Rows that wait in lanes", vendor=Channel, message_class=Class)
    lane_parked_rows = gauge("rows", "Rows parked because their lane is full", vendor=Channel, message_class=Class)
    bucket_waits = counter("waits", "Times a lane waited for its token bucket", vendor=Channel)
    bucket_wait_s = counter("seconds", "Time lanes waited for their token bucket", vendor=Channel)
    bursts = counter("bursts", "Bursts handed to vendor connections", vendor=Channel)
    rows_probed = counter("rows", "Rows with unproven tokens sent as probes", vendor=Channel)
    probe_waits_over = counter("rows", "Rows that took a normal connection after probe_wait_s", vendor=Channel)
    probe_rows = gauge("rows", "Rows with unproven tokens that wait for a probe", vendor=Channel)
    probe_connections = gauge("connections", "Connections that are probes now", vendor=Channel)
    credential_refreshes = counter("refreshes", "Credentials made or fetched", vendor=Channel)
    credential_failures = counter(
        "failures", "Credentials that could not be made or fetched", app=open_label(), vendor=Channel
    )
    credential_expires_s = gauge("seconds", "Time until the credential in force expires", "min", vendor=Channel)
    breaker_state = gauge("state", "Breaker: 0 closed, 1 half open, 2 open", "max", app=open_label(), vendor=Channel)
    breaker_transitions = counter(
        "transitions",
        "Moves of a breaker into a state, and why it had opened",
        app=open_label(),
        vendor=Channel,
        state=BREAKER_STATES,
        cause=BREAKER_CAUSES,
    )
    unregister_guard_holding = gauge(
        "state", "1 while removals of dead tokens are held back", "max", app=open_label(), vendor=Channel
    )
    removals_held = gauge("removals", "Removals of dead tokens that wait held back", app=open_label(), vendor=Channel)
    removals_held_back = counter(
        "removals",
        "Removals of dead tokens held back, and what became of them",
        app=open_label(),
        vendor=Channel,
        outcome=HELD_OUTCOMES,
    )
    # connections
    connections_open = gauge("connections", "Connections that are open now", listener=LISTENERS)
    connections = counter("connections", "Connections opened", listener=LISTENERS)
    closes = counter("connections", "Connections ended, by their one close reason", listener=LISTENERS, why=CloseReason)
    refusals = counter("refusals", "What was refused, by the name of the limit or rule", name=open_label())
    # receipts of vendors
    receipt_requests = counter("requests", "Vendors' requests with receipts", vendor=Channel, outcome=RECEIPT_REQUESTS)
    vendor_receipts = counter("receipts", "Vendors' receipts by their fate", vendor=Channel, outcome=RECEIPT_OUTCOMES)
    receipt_events = counter("receipts", "Vendors' receipts that found their row", vendor=Channel, event=Event)
    receipt_unknown = counter("receipts", "Receipts with an event in no table", vendor=Channel, name=open_label())
    receipt_guard_holding = gauge(
        "state", "1 while receipts' removals of dead tokens are held back", "max", app=open_label(), vendor=Channel
    )
    receipt_removals_held = gauge(
        "removals", "Receipts' removals of dead tokens that wait held back", app=open_label(), vendor=Channel
    )
    own_ids = gauge("ids", "Numbers of vendors' own that are remembered for their receipts")
    own_ids_fallen = counter("ids", "Numbers of vendors' own that had to make room before their time")
    outcome_questions = counter(
        "questions", "Questions to vendors what became of messages", vendor=Channel, outcome=QUESTION_OUTCOMES
    )
    receipts_waiting = gauge("receipts", "Vendors' receipts that wait to be dealt with")
    # between workers
    link_rows = counter("rows", "Rows between workers, by what became of them", what=LINK_ROWS)
    link_slices = counter("slices", "Slices of rows sent to the workers that own their devices")
    links_open = gauge("links", "Links to other workers that are open")
    link_parked_rows = gauge("rows", "Rows that wait for room at another worker, or for its next life")
    foreign_rows_open = gauge("rows", "Rows that other workers journaled and this one holds")
    stand_in_submits = counter(
        "submits", "Submits with a request id taken in the stead of a worker that was down", worker=open_label()
    )
    stand_in_ids_told = counter("ids", "Request ids that workers which came back were told of")
    # binary RPC
    rpc_frames = counter("frames", "Frames of the binary RPC", direction=DIRECTIONS, kind=open_label())
    rpc_bytes = counter("bytes", "Bytes of the binary RPC", direction=DIRECTIONS)
    rpc_errors = counter("answers", "Error answers of the binary RPC, by code", code=open_label())
    # long link
    mqtt_packets = counter("packets", "MQTT packets", direction=DIRECTIONS, type=open_label())
    mqtt_connacks = counter("packets", "Answers to CONNECT, by return code", code=open_label())
    mqtt_events = counter("events", "What the edge counted, by name (docs/device-protocol.md)", name=open_label())
    mqtt_bytes = counter("bytes", "MQTT bytes", direction=DIRECTIONS)
    devices_online = gauge("devices", "Devices with an open session")
    devices_online_by = gauge(
        "devices", "Devices with an open session, by app and platform", app=open_label(), platform=open_label()
    )
    devices_registered = gauge("devices", "Devices in the device table")
    late_acknowledgements = counter("rows", "Acknowledgements of rows that had left the long link")
    uplink_events = counter("events", "Events that devices reported and that were acted upon", event=open_label())
    custom_events = counter(
        "events", "Events 90000 to 90999 of devices, by app and number", app=open_label(), event=open_label()
    )
    inbox_rows = gauge("rows", "Rows that wait for a device to come back")
    inbox_swept = counter("rows", "Stored rows that a sweep removed because their time was over and nobody had them")
    # stores
    registry_writes = counter("devices", "Devices written to the registry on disk")
    store_failures = counter(
        "failures", "Calls that a store refused, by store and kind", store=STORES, error=open_label()
    )
    store_bytes = gauge("bytes", "Bytes on disk, by store", store=STORES)
    pages_unsaved = gauge("pages", "Ledger pages whose rows have ended and that are not in the archive as they are")
    pages_archived = counter("pages", "Ledger pages written to the archive")
    pages_spilled = counter("pages", "Ledger pages with open rows whose ids, targets and texts went to the disk")
    counter_cells = gauge("cells", "Counts of rows in memory that are in no archive")
    counter_days_forgotten = counter(
        "days", "Days whose counts were forgotten at counter_cells_max, without an archive"
    )
    pages_deleted = counter("pages", "Archived pages deleted by retention_s and retention_bytes_max")
    registry_load_s = gauge("seconds", "How long the registry was loaded at start", "max")
    consents = gauge("keys", "Pairs of user and template with a consent that is left or in use")
    consents_held = gauge("rows", "Rows that hold a consent until they have ended")
    consent_events = counter("consents", "What became of consents, by app", app=open_label(), what=CONSENT_EVENTS)
    # HTTP
    http_requests = counter("requests", "Requests to the HTTP listener", path=open_label(), status=open_label())
    device_requests = counter(
        "requests", "Proven and refused requests for device identities, by app", app=open_label(), outcome=open_label()
    )
    # identity
    secret_uses = counter(
        "proofs",
        "Proofs made with an app secret, by its place in the configuration (0 is the newest)",
        app=open_label(),
        secret=open_label(),
        where=SECRET_PLACES,
    )
    logins_refused = counter(
        "connections", "Devices refused at accept or CONNECT, by app and rule", app=open_label(), rule=LOGIN_RULES
    )
    failed_addresses = gauge("addresses", "Addresses remembered for wrong passwords")
    failed_addresses_forgotten = counter("addresses", "Addresses that fell out of that table while it was full")
    accept_files_max = gauge("files", "Open files at which the long link stops accepting")
    # the process
    loop_lag_s = histogram("seconds", "How late a timer fired", STEP_BOUNDS_S)
    step_s = histogram(
        "seconds", "Steps of the event loop longer than step_ms_max, by task", STEP_BOUNDS_S, task=open_label()
    )
    longest_step_s = gauge("seconds", "Longest step of the event loop since the last scrape", "max")
    longest_lag_s = gauge("seconds", "Longest loop lag since the last scrape", "max")
    log_lines = counter("lines", "Lines logged", level=("debug", "info", "warning", "error"))
    log_lines_suppressed = counter("lines", "Lines left out by log_lines_per_s_max")
    worker_restarts = counter("restarts", "Ends of workers that nobody had asked for", worker=open_label())
    workers_ready = gauge("workers", "Workers that are ready; 0 where one runs without a supervisor")
    actor_restarts = counter(
        "restarts",
        "Crashes of actors, each followed by a restart, and of a connection or request, which ends alone",
        actor=open_label(),
    )
    memory_bytes = gauge("bytes", "Resident memory of the process")
    memory_part_bytes = gauge("bytes", "Memory in use by part of the budget", part=open_label())
    open_files = gauge("files", "Open file descriptors")
    cpu_s = counter("seconds", "CPU time of the process")
    processor_wait_s = counter("seconds", "Time in which the event loop could run and waited for a processor")
    started_unix_s = gauge("seconds", "Unix time of the start", "min")

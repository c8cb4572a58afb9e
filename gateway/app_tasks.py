"""What a worker knows of tasks: who stops them, and who tells their services what became of them; built here."""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from gateway.actors.audience_sources import ListedDevices, Source
from gateway.actors.audiences import Audience
from gateway.actors.callback_history import CallbackHistory
from gateway.actors.callbacks import Callbacks, CallbackSettings
from gateway.actors.credentials import open_http_client
from gateway.actors.merged_streams import cursor_of_one
from gateway.actors.receipt_stream import Cursor
from gateway.actors.task_control import TaskControl
from gateway.config import message_id_secret
from gateway.core.audience_walk import Wanted
from gateway.core.callback_lines import Signer
from gateway.core.devices import DeviceTable
from gateway.core.lifetimes import NOW_OR_NEVER_S
from gateway.core.shadow import Life
from gateway.core.stopping import StoppedTasks
from gateway.message_id import to_text
from gateway.observe.callbacks import CallbackCounts

if TYPE_CHECKING:
    from gateway.app import Worker
    from gateway.app_journal import DiskJournal


def build_control(worker: Worker) -> TaskControl:
    """Stops tasks; durably where the worker has a journal or stores on the disk."""
    config = worker.config
    control = TaskControl(
        home=worker.home,
        inbox=worker.inbox,
        clock=worker.clock,
        stopped=StoppedTasks(config.ledger.stopped_tasks_max),
        archive=worker.stores.ledger,
    )
    if worker.stores.ledger is not None:
        # A crash may have come between a stop and the page that says what it did.
        worker.stores.ledger.on_brought_back = control.opened
    if worker.disk is not None:
        worker.disk.tasks, control.remember = control, worker.disk.stopped_log.remember
    elif (
        log := worker.stores.open_stopped_log(worker.home.journal, message_id_secret(config), worker.clock)
    ) is not None:
        control.remember = log.remember
        for task_id, stopped_unix_ms in log.load_all():
            control.stopped.add(task_id, stopped_unix_ms)
    return control


def resume_audiences(worker: Worker, disk: DiskJournal) -> None:
    """What an ended process had not yet sent of its audiences is sent, unless the task was stopped, or so much time has
    passed that a row of the last chunk would be over."""
    now, now_unix_ms = worker.clock.monotonic(), worker.clock.unix_ms()
    log = worker.log.bind(actor="audiences")
    for saved in disk.saved_audiences:
        left = saved.devices - saved.reached
        is_over = now_unix_ms - saved.reached_unix_ms > max(saved.variant.ttl_s, NOW_OR_NEVER_S) * 1000
        if is_over or saved.task_id in worker.control.stopped:
            disk.actor.let_go([*saved.positions, saved.reached_position])
            worker.metrics.audience_rows_left.add(left)
            log.warning("audience not continued", task=to_text(saved.task_id), rows_left=left, is_over=is_over)
            continue
        began = now - (saved.reached / saved.rows_per_s if saved.rows_per_s else 0.0)
        if saved.walk is None:
            source: Source = ListedDevices(saved.ids, saved.reached)
        else:
            wanted = Wanted(saved.app, saved.walk.tag, saved.walk.until_unix_s)
            source = worker.audiences.walk(wanted, saved.devices, saved.left)
        audience = Audience(
            saved.app,
            saved.variant,
            source,
            saved.rows_per_s,
            began,
            reached=saved.reached,
            queued_rows_max=worker.config.audiences.queued_rows_max,
        )
        audience.task_id, audience.positions = saved.task_id, [*saved.positions, saved.reached_position]
        worker.audiences.resume(audience)
        log.info("audience goes on", task=to_text(saved.task_id), rows_left=left)
    disk.saved_audiences = []


def callback_actors(worker: Worker) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Name and run of the actor of each app that has [apps.callback]. To be called when the journal was replayed: what
    an ended process had not told is looked for in its pages."""
    for index, app in enumerate(worker.config.apps):
        callback = app.callback
        if callback is None:
            continue
        settings = CallbackSettings(
            app=index,
            url=callback.url,
            signer=Signer(callback.app_id or app.key, callback.secret.read()),
            batch_rows_max=callback.batch_rows_max,
            queue_rows_max=callback.queue_rows_max,
            attempts_max=callback.attempts_max,
            timeout_s=callback.timeout_s,
            cursor_bytes=_cursors(worker),
            alias_of=functools.partial(_alias_of, worker.devices, index) if callback.with_alias else None,
        )
        ledger = worker.stores.ledger
        history = None
        if ledger is not None:
            history = CallbackHistory(archive=ledger, home=worker.home, clock=worker.clock, app=index)
        actor = Callbacks(
            settings,
            home=worker.home,
            open_client=functools.partial(open_http_client, callback.ca_file, timeout_s=callback.timeout_s),
            observer=CallbackCounts(worker.metrics, worker.log.bind(actor="callbacks", app=app.key), app.key),
            random=random.random,
            history=history,
        )
        yield f"callbacks {app.key}", actor.run


def _cursors(worker: Worker) -> Callable[[Cursor], bytes]:
    """How a place in this worker's ring is named to `subscribe_receipts`."""
    if worker.siblings is None:
        return Cursor.encode
    place = worker.siblings.place
    life = Life(place.worker, place.incarnation)
    return lambda cursor: cursor_of_one(life, place.workers, cursor.position, cursor.offset)


def _alias_of(devices: DeviceTable, app: int, device_id: bytes) -> str:
    slot = devices.find_one(device_id, app)
    return "" if slot < 0 else devices.device(slot).alias.decode()

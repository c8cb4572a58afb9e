"""What a worker knows of tasks: who stops them, and who tells their services what became of them; built here."""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from gateway.actors.callbacks import Callbacks, CallbackSettings
from gateway.actors.credentials import open_http_client
from gateway.actors.task_control import TaskControl
from gateway.core.callback_lines import Signer
from gateway.core.stopping import StoppedTasks
from gateway.observe.callbacks import CallbackCounts

if TYPE_CHECKING:
    from gateway.app import Worker


def build_control(worker: Worker) -> TaskControl:
    """Stops tasks; durably where the worker has a journal on the disk."""
    control = TaskControl(
        home=worker.home,
        inbox=worker.inbox,
        clock=worker.clock,
        stopped=StoppedTasks(worker.config.ledger.stopped_tasks_max),
        archive=worker.stores.ledger,
    )
    if worker.disk is not None:
        worker.disk.tasks, control.remember = control, worker.disk.stopped_log.remember
    return control


def callback_actors(worker: Worker) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Name and run of the actor of each app that has [apps.callback]."""
    for index, app in enumerate(worker.config.apps):
        callback = app.callback
        if callback is None:
            continue
        settings = CallbackSettings(
            app=index,
            url=callback.url,
            signer=Signer(callback.app_id or app.key, callback.secret.read().decode()),
            batch_rows_max=callback.batch_rows_max,
            queue_rows_max=callback.queue_rows_max,
            attempts_max=callback.attempts_max,
            timeout_s=callback.timeout_s,
            has_cursor=worker.siblings is None,
        )
        actor = Callbacks(
            settings,
            home=worker.home,
            open_client=functools.partial(open_http_client, callback.ca_file, timeout_s=callback.timeout_s),
            observer=CallbackCounts(worker.metrics, worker.log.bind(actor="callbacks", app=app.key), app.key),
            random=random.random,
        )
        yield f"callbacks {app.key}", actor.run

"""What of the store folder belongs to all workers is there, and each worker's inbox has the rows of its devices.

Called once per start, before any worker runs, by the process that has the lock of the data folder: by `serve` itself,
or by its supervisor.

A database that was there at the last start and is gone would be made anew, empty, and nobody would say that what it
held is lost: so the start is refused. A worker opens its registry groups, then its inbox, then its archive; whichever
is there says that those before it were.
"""

from __future__ import annotations

from pathlib import Path

from gateway.app_siblings import ownership_of
from gateway.app_stores import WORKERS_FILE, check_apps, ledger_path, make_hash_key, write_secret
from gateway.config import Config
from gateway.core.ownership import WORKERS_MAX
from gateway.errors import StoreError
from gateway.observe.log import Log
from gateway.store.database import named_errors
from gateway.store.inbox_moves import clean_mark, inbox_path, move_rows
from gateway.store.sqlite_registry import fix_shard_groups, group_path


def make_stores_ready(config: Config) -> None:
    """Where there is another number of workers than before, stored rows are in the inboxes of their workers. Blocks.

    Raises StoreError.
    """
    folder, workers = config.store.data_dir, config.gateway.workers
    if folder is None:
        return
    fix_shard_groups(folder / "registry", config.store.shard_groups)
    check_apps(folder, [app.key for app in config.apps])
    make_hash_key(folder)
    path = folder / WORKERS_FILE
    with named_errors(str(path)):
        # A folder of a version that did not know of several.
        before = path.read_text().strip() if path.exists() else "1"
    for worker in range(int(before)):
        groups = range(worker, config.store.shard_groups, int(before))
        _refuse_gone(
            [*(group_path(folder / "registry", group) for group in groups), inbox_path(folder, worker)],
            ledger_path(folder, worker),
        )
    if before == str(workers):
        return
    marks = [clean_mark(folder, worker) for worker in range(int(before))]
    was_clean = all(mark.exists() for mark in marks)
    with named_errors(str(folder)):
        # Rows change their inbox: one that was left in the middle of something makes all of them doubtful.
        for mark in marks:
            mark.unlink(missing_ok=True)
    moved = move_rows(folder, ownership_of(config).owners, workers_max=WORKERS_MAX)
    with named_errors(str(path)):
        for worker in range(workers if was_clean else 0):
            clean_mark(folder, worker).touch(mode=0o600)
        write_secret(path, f"{workers}\n".encode())
    Log().info("another number of workers", before=int(before), workers=workers, stored_rows_moved=moved)


def _refuse_gone(earlier: list[Path], last: Path) -> None:
    """Of the files that a worker makes one after the other none is missing, or all are. Raises StoreError."""
    *_, inbox = earlier
    if inbox.exists() or last.exists():
        gone = [path for path in (*earlier, last) if not path.exists()]
        if gone:
            what = "is gone: restore a backup, or make an empty file of that name to go on without what it held"
            raise StoreError(str(gone[0]), what)

"""What of the store folder belongs to all workers is there, and each worker's inbox has the rows of its devices.

Called once per start, before any worker runs, by the process that has the lock of the data folder: by `serve` itself,
or by its supervisor.
"""

from __future__ import annotations

from gateway.app_siblings import ownership_of
from gateway.app_stores import WORKERS_FILE, check_apps, make_hash_key, write_secret
from gateway.config import Config
from gateway.core.ownership import WORKERS_MAX
from gateway.observe.log import Log
from gateway.store.database import named_errors
from gateway.store.inbox_moves import clean_mark, move_rows
from gateway.store.sqlite_registry import fix_shard_groups


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

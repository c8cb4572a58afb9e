"""Copies of the stores: made by the process that has them open, put into an empty folder by `pushgw restore`.

    folder/backup.json      files and their bytes; written last, so a folder without it is no backup
    folder/...              each database as one file, keys and lists as they are

Each database is copied in a turn of its own, so it is consistent in itself; and no rule of the stores depends on two of
them at one moment (DESIGN.md section 4). The order counts: a row goes from the journal to the archive, and from the
inbox to its device. So the journal is copied first and the inbox last: what left the journal meanwhile is in the
archive, and what the archive calls held is in the inbox, or was delivered meanwhile. What was accepted after a copy is
in none.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import StoreCorrupt, StoreError
from gateway.store.database import named_errors

MANIFEST = "backup.json"
#: Of a journal, which makes it anew.
_NOT_COPIED = ("lock",)
#: Of the manifest.
VERSION = 1


def finish(folder: Path, *, others: Mapping[str, Path]) -> dict[str, int]:
    """Files that are no databases are copied, and the manifest is written; name and bytes of every file. Blocks."""
    with named_errors(str(folder)):
        for name, path in others.items():
            if path.exists():
                shutil.copyfile(path, folder / name)
                (folder / name).chmod(0o600)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
        for path in paths:
            _sync(path)
        manifest = folder / MANIFEST
        manifest.write_text(json.dumps({"version": VERSION, "files": files}, indent=1))
        _sync(manifest)
        _sync(folder)
    return files


def copy_journal(journal: Path, folder: Path) -> None:
    """The files of a journal that is in use are in the new folder, as a crash at this moment would leave them. Blocks.

    Its segments only grow and are copied in their order: a record that is half written is at the end of the last, where
    a start looks for such. One that is deleted meanwhile has nothing that is needed.
    """
    with named_errors(str(folder)):
        for path in sorted(journal.rglob("*")):
            if not path.is_file() or path.name in _NOT_COPIED or path.suffix in (".spare", ".new"):
                continue
            target = folder / path.relative_to(journal)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, target)
            except FileNotFoundError:
                target.unlink(missing_ok=True)
            else:
                target.chmod(0o600)


def prepare(folder: Path) -> None:
    """The folder is there and empty. Blocks. Raises StoreError where something is in it."""
    with named_errors(str(folder)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(str(folder), "is not empty")


def restore(
    backup: Path, folder: Path, *, others: Mapping[str, Path], folders: Mapping[str, Path] | None = None
) -> dict[str, int]:
    """What the backup holds stands in the empty folder, and in `others` what is kept elsewhere. Blocks.

    others: by name; folders: by the first part of the name, each empty so far.

    Raises StoreError where the folder is not empty or another file is in the way, StoreCorrupt for a backup that is not
    whole.
    """
    with named_errors(str(backup)):
        try:
            manifest = json.loads((backup / MANIFEST).read_text())
            files: dict[str, int] = dict(manifest["files"])
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(str(backup), f"no backup: {MANIFEST} is missing or damaged") from error
        if manifest.get("version", 0) > VERSION:
            what = f"backup has version {manifest['version']}, this version knows up to {VERSION}"
            raise StoreCorrupt(str(backup), what)
        for name, size in files.items():
            path = backup / name
            if not path.is_file() or path.stat().st_size != size:
                raise StoreCorrupt(str(path), f"is not the file of {size} bytes that was backed up")
            if name.endswith(".db"):
                _check(path)
        for name, path in others.items():
            if name in files and path.exists() and path.read_bytes() != (backup / name).read_bytes():
                raise StoreError(str(path), "is there already, and is another one than in the backup")
    prepare(folder)
    elsewhere = dict(folders or {})
    for first, path in elsewhere.items():
        if any(name.startswith(f"{first}/") for name in files):
            prepare(path)
    with named_errors(str(folder)):
        for name in files:
            first, _, rest = name.partition("/")
            target = others.get(name, elsewhere[first] / rest if first in elsewhere else folder / name)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(backup / name, target)
            target.chmod(0o600)
            _sync(target)
        _sync(folder)
    return files


def _check(path: Path) -> None:
    """Raises StoreCorrupt for a database that is damaged."""
    with named_errors(str(path)):
        database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        try:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            database.close()
    if found != "ok":
        raise StoreCorrupt(str(path), str(found))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""`pushgw backup`, `pushgw restore`: a copy of what a running gateway has on its disk, and back into an empty one."""

from __future__ import annotations

import argparse

from gateway.cli.arguments import CONFIG_VARIABLE
from gateway.cli.connection import operator_only
from gateway.cli.exit_codes import ExitCode, UsageError
from gateway.cli.output import Output


def back_up(options: argparse.Namespace, output: Output) -> int:
    """The gateway has copied its stores into the folder, on its own machine."""
    with operator_only(options) as client:
        files = client.backup(str(options.folder.absolute())).files
    return _say(output, files, f"backed up to {options.folder}")


def restore(options: argparse.Namespace, output: Output) -> int:
    """The configuration's store folder, empty so far, holds the backup. The gateway must not run."""
    from gateway.app_stores import files_elsewhere, folders_elsewhere
    from gateway.config import load_config
    from gateway.store import backup

    if options.config is None:
        raise UsageError(f"give --config FILE or set {CONFIG_VARIABLE}")
    config = load_config(options.config, with_files=False)
    if config.store.data_dir is None:
        raise UsageError(f"{options.config} has no store.data_dir to restore to")
    files = backup.restore(
        options.folder, config.store.data_dir, others=files_elsewhere(config), folders=folders_elsewhere(config)
    )
    return _say(output, files, f"restored to {config.store.data_dir}")


def _say(output: Output, files: dict[str, int], text: str) -> int:
    total = sum(files.values())
    output.document({"files": files, "bytes": total})
    if not output.is_json:
        output.say(f"{text}: {len(files)} files, {total:,} bytes")
    return ExitCode.GOOD


def run(options: argparse.Namespace, output: Output) -> int:
    return (back_up if options.command == "backup" else restore)(options, output)

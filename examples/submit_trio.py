"""Submits notifications from many trio tasks over one connection.

    python examples/submit_trio.py ADDRESS APP_KEY SECRET_FILE DEVICE_ID [DEVICE_ID ...]

Each device gets a message of its own; the gateway gathers what arrives together into one batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from gateway.client.trio_client import TrioClient, open_trio_client
from gateway.content import Variant


async def greet(client: TrioClient, device_id: str, accepted: list[str]) -> None:
    answer = await client.submit(Variant("Hello", f"device {device_id[:6]}, from trio"), [device_id])
    if answer.accepted:
        accepted.append(device_id)


async def main(address: str, app_key: str, secret: bytes, device_ids: list[str]) -> int:
    accepted: list[str] = []
    async with open_trio_client(address, app_key, secret) as client, trio.open_nursery() as nursery:
        for device_id in device_ids:
            nursery.start_soon(greet, client, device_id, accepted)
    sys.stdout.write(f"{len(accepted)} of {len(device_ids)} accepted\n")
    return 0 if len(accepted) == len(device_ids) else 3


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    _, address, app_key, secret_file, *device_ids = sys.argv
    sys.exit(trio.run(main, address, app_key, Path(secret_file).read_bytes().strip(), device_ids))

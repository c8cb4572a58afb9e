"""Submits one template with a variable per device on asyncio, then prints the first changes of its rows.

python examples/submit_asyncio.py ADDRESS APP_KEY SECRET_FILE DEVICE_ID [DEVICE_ID ...]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.client.asyncio_client import AsyncioClient
from gateway.content import Variant

#: Seconds after which the example leaves.
PATIENCE_S = 30.0


async def main(address: str, app_key: str, secret: bytes, device_ids: list[str]) -> int:
    async with AsyncioClient(address, app_key, secret) as client, client.subscribe_receipts() as pages:
        names = (await client.welcome()).names
        answer = await client.submit(
            Variant("Hello {{name}}", "from asyncio"),
            device_ids,
            variables={"name": [device_id[:6] for device_id in device_ids]},
        )
        sys.stdout.write(f"{answer.accepted} accepted\n")
        try:
            async with asyncio.timeout(PATIENCE_S):
                page = await anext(pages)
        except TimeoutError:
            sys.stdout.write(f"nothing has changed for {PATIENCE_S:g} s: the rows wait for their devices\n")
        else:
            for row in range(page.n):
                message_id = bytes(page.message_ids[16 * row : 16 * row + 16]).hex()
                sys.stdout.write(f"{message_id} {names.states[page.state[row]]}\n")
    return 0 if answer.accepted == len(device_ids) else 3


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    _, address, app_key, secret_file, *device_ids = sys.argv
    sys.exit(asyncio.run(main(address, app_key, Path(secret_file).read_bytes().strip(), device_ids)))

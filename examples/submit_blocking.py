"""Submits one notification with the blocking client and waits until its rows are final.

    python examples/submit_blocking.py ADDRESS APP_KEY SECRET_FILE DEVICE_ID [DEVICE_ID ...]

ADDRESS: tcp://host:port, tls://host:port?ca=FILE or unix:///path. DEVICE_ID: 32 hex digits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gateway.client.blocking import BlockingClient
from gateway.content import Variant

#: Seconds between two questions, and after how many the example leaves.
PAUSE_S = 0.2
PATIENCE_S = 30.0


def main(address: str, app_key: str, secret_file: str, *device_ids: str) -> int:
    secret = Path(secret_file).read_bytes().strip()
    with BlockingClient(address, app_key, secret) as client:
        answer = client.submit(Variant("Hello", "from the blocking client", ttl_s=600), device_ids)
        for refused in answer.refused:
            sys.stderr.write(f"refused: {device_ids[refused.row]}: {refused.text}\n")
        until = time.monotonic() + PATIENCE_S
        counts = client.task_state(answer.task_id)
        while not counts.is_final and time.monotonic() < until:
            time.sleep(PAUSE_S)
            counts = client.task_state(answer.task_id)
    sys.stdout.write(f"{answer.accepted} accepted: {counts.states}\n")
    return 0 if answer.accepted == len(device_ids) else 3


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

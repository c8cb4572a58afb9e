"""Clients of the binary RPC, and the JSONL reader of the command line.

    blocking.py        BlockingClient     sockets, one thread
    trio_client.py     TrioClient         open_trio_client(...)
    asyncio_client.py  AsyncioClient      async with AsyncioClient(...)

The three have the same methods (requests.py builds what they send, retry.py says when to try again). Imports words and
`gateway.wire.rpc` only, so that a service may take this package without the gateway.
"""

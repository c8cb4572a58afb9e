"""The binary RPC by which services, the command line and operators talk to the gateway. Bytes: docs/rpc.md.

    framing.py       length-prefixed frames                     messages.py      every message as a msgspec Struct
    proof.py         HMAC challenge and answer                  codec.py         payload <-> message, faults named
    limits.py        every limit of a connection                faults.py        error codes, BadRequest
    columns_in.py    columns out of MessagePack bins            duplicates.py    same target twice in one call
    targets_in.py    channels, tokens, device ids
    submit.py        Submit -> Submission                       registration.py  RegisterDevices -> Registration
    server.py        the server's session machine               server_table.py  its literal transition table
    client.py        the client's session machine

Nothing here knows sockets, clocks or randomness; they are arguments.
"""

"""The client side of HTTP/1.1 for vendors without HTTP/2, sans-IO: RFC 9110 and RFC 9112.

    requests.py    rows of `Requests` -> the bytes of each request
    heads.py       response heads, memoized
    bodies.py      where a body ends: length, chunks, the end of the connection
    exchange.py    one TCP connection: one request at a time, and what became of it
    bundle.py      several of them as one connection of a pool: what a lane sees

docs/http1.md maps each requirement to its place and test, and says why h11 is the referee here and not the engine.
"""

"""HTTP/2 client made for bursts of near-identical requests (RFC 9113; DESIGN.md section 5; docs/http2.md).

frames       layout of frames, types, flags, error codes
settings     ours (configuration) and the peer's (live)
events       what the machine tells its owner
inflight     open streams as columns
flow         flow-control windows of both directions
template     header blocks of a burst: constants and columns
bursts       requests -> HEADERS and DATA frames as 2-D arrays or joined pieces
reader       bytes -> frames, whole header blocks, runs of equal frames
responses    header block -> response head, memoized
answers      frames of streams -> answers, resets
connection   the machine: everything that concerns the connection as a whole
"""

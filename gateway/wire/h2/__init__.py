"""HTTP/2 client made for bursts of near-identical requests (RFC 9113; DESIGN.md section 5; docs/http2.md).

frames       layout of frames, types, flags, error codes
settings     ours (configuration) and the peer's (live)
events       what the machine tells its owner
inflight     open streams as columns
flow         flow-control windows of both directions
template     header blocks of a burst: constants and columns
bursts       requests -> HEADERS and DATA frames as 2-D arrays or joined pieces
reader       padding, priority fields, header blocks in pieces
runs         stretches of a buffer in which one pattern of frames repeats
responses    header block -> response head, memoized by block and by layout
answers      frames of streams -> answers, resets
connection   the machine: everything that concerns the connection as a whole
"""

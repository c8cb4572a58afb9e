"""HPACK, header compression for HTTP/2 (RFC 7541): complete decoder, and an encoder made for bursts.

    integer   numbers with a prefix (section 5.1)
    huffman   the canonical code of Appendix B
    tables    static table (Appendix A), dynamic table (section 4)
    decoder   header block -> list of (name, value)
    layout    blocks that differ in some values only, recognised without decoding
    encoder   the representations a burst is put together from

Rules for authors: no exceptions but `RemoteProtocolError` leave the decoder, whatever the bytes; no state but the
dynamic table survives a block.
"""

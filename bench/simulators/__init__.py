"""Strict simulators of push services: real TLS, real HTTP/2, a control port, and scripted misbehaviour.

Rules for authors:
- Nothing here imports `gateway` or `vendors`; a simulator is written from the vendor's document, so that it can
  catch the gateway's mistakes instead of sharing them.
- HTTP/2 is the `h2` library, HTTP/1.1 is `h11`; the burst engine under test is never used to judge itself.
- asyncio on uvloop, so that not even an event loop is shared with the gateway (which runs on trio).

Map: `config*` what can be set; `clock`, `rate`, `faults`, `fates`, `received`, `counts` machines without I/O;
`exchange` the meaning of one request at any vendor; `apns*`, `fcm*` one vendor each; `push_api` the base of all other
vendors, with `fields`, `access_tokens`, `kept_token`, `huawei_cloud` and `sms` for what some of them share; `receipts`
what vendors report and who carries it; `h2_server`, `http1`, `http1_client`, `tls`, `server`, `control` sockets;
`__main__` the command line. See docs/simulators.md.
"""

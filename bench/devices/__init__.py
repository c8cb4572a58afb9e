"""A fleet of phones: thousands of real MQTT 3.1.1 clients over TCP in one process, for demos, tests and load.

Rules for authors: nothing here imports `gateway` or `vendors`; the codec is written from the OASIS text and shared with
nobody, so that it can disagree with the gateway's.

Map: `mqtt` codec without I/O; `received` what arrived; `device` one connection; `fleet` the commands; `__main__` the
command line with JSON lines on stdin and stdout. See docs/simulators.md, "Device fleet".
"""

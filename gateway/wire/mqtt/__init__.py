"""MQTT 3.1.1 and 5.0, the server's side, sans-IO.

packets.py    bytes of a client -> packets (their bodies: packets_3_1_1.py, packets_5.py; as values: packet_types.py)
answers.py    packets of the server -> bytes, by version
properties.py properties of 5.0; fields.py: data types; reason_codes.py: reason codes of 5.0
publish.py    PUBLISH and PUBACK of many devices at once, in columns
in_flight.py  messages of QoS 1 that wait for their PUBACK, in columns
session.py    what each packet means in each state
"""

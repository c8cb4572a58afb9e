"""MQTT 3.1.1, the server's side, sans-IO.

packets.py    bytes of a client -> packets, packets of the server -> bytes
publish.py    PUBLISH and PUBACK of many devices at once, in columns
in_flight.py  messages of QoS 1 that wait for their PUBACK, in columns
session.py    what each packet means in each state
"""

"""Consents as columns, as the table (core/consents.py) gives them and a store keeps them."""

from __future__ import annotations

from typing import NamedTuple

from gateway.columns import U16, U64


class Changed(NamedTuple):
    """keys: (n, 2) uint64, each once. left: (n,) uint16, 0 where the key is gone."""

    keys: U64
    left: U16

"""Signers shared by vendor files: pure functions of (key, time). Keeping credentials fresh is the keeper's work
(gateway/actors/credentials.py)."""

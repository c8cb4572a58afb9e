"""Lets the adapters' tests import the contract suite beside them, with its assertions explained as in a test file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("contract", "contract_inbox", "contract_ledger", "contract_registry")
sys.path.insert(0, str(Path(__file__).parent))

"""Records: gathered copies and views of fields show the same device."""

from __future__ import annotations

import numpy as np

from gateway.core.records import NO_APP, OFFLINE, DeviceRecords


def test_unknown_rows_gather_as_nobody():
    records = DeviceRecords(4)
    records.app[4] = 7
    records.fd[4] = 12
    found = records.gather(np.array([-1, 4, 0], np.int32))
    assert found["app"].tolist() == [NO_APP, 7, NO_APP]
    assert found["fd"].tolist() == [OFFLINE, 12, OFFLINE]
    assert found["token_length"].tolist() == [0, 0, 0]


def test_words_stand_where_look_ups_expect_them():
    records = DeviceRecords(1)
    records.id_low[1], records.id_high[1] = 5, 6
    records.app[1], records.channel[1], records.flags[1], records.fd[1] = 0x0102, 0xFF, 0xFF, -1
    records.token_hash[1] = 0xAABBCCDD_00000001
    records.token_length[1] = 163
    words = records.gather_words(np.array([1], np.int32))[0].tolist()
    assert words[:2] == [5, 6]
    assert words[2] & 0xFFFF == 0x0102
    assert words[4] >> 32 == 0xAABBCCDD
    assert words[7] & 0xFFFF == 163


def test_gathered_records_are_copies():
    records = DeviceRecords(1)
    found = records.gather(np.array([1]))
    records.fd[1] = 9
    assert found["fd"].tolist() == [0]

"""DeviceTable against dicts, and the rules of registration, presence and dead tokens one by one."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.columns import TextColumn
from gateway.core.details import Profile
from gateway.core.devices import SINCE_UNKNOWN, DeviceLimits, DeviceTable
from gateway.core.registration import Outcome, Registrations
from gateway.core.segments import HashKey
from gateway.device_columns import DeviceColumns, concatenate
from gateway.errors import Overloaded

KEY = HashKey(b"a secret of sixteen bytes or more")
IDS = [bytes([number]) * 16 for number in range(12)]
#: Of several lengths; none is a prefix of the other's padding by accident only.
TOKENS = [b"a" * 64, b"b" * 64, b"c" * 64, b"short", b"shor", b"d" * 163, b"e" * 163]
#: Few, so that the state machine meets the same ones again.
MACHINE_LIMITS = DeviceLimits(devices_max=9, token_bytes_max=1 << 20, aliases_max=20, tag_bindings_max=50)
MACHINE_IDS, MACHINE_TOKENS = IDS[:6], [TOKENS[0], TOKENS[3], TOKENS[4]]
LIMITS = DeviceLimits(devices_max=20, token_bytes_max=1 << 20, aliases_max=20, tag_bindings_max=50, profiles_max=8)


def ids_of(ids):
    return np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), 16)


def batch_of(rows, *, proven=0, aliases=None, tags=None, **more):
    """rows: (id, channel, token) each."""
    return Registrations(
        ids_of([row[0] for row in rows]),
        np.array([row[1] for row in rows], np.uint8),
        TextColumn.from_rows([row[2] for row in rows]),
        np.full(len(rows), proven, np.uint32),
        aliases=None if aliases is None else TextColumn.from_rows(aliases),
        tag_counts=None if tags is None else np.array([len(some) for some in tags], np.uint32),
        tags=None if tags is None else TextColumn.from_rows([tag for some in tags for tag in some]),
        **more,
    )


def register(table, rows, now=100, app=0, **more):
    return table.register(app, batch_of(rows, **more), now)


def rows_of(table, ids, app=0):
    return table.find(ids_of(ids), app)


def array(values, dtype=np.int32):
    return np.array(values, dtype)


@pytest.fixture
def table():
    return DeviceTable(LIMITS, KEY)


class PlainDevice:
    def __init__(self):
        self.channel, self.token, self.is_muted = 0, b"", False
        self.registered = self.proven = 0
        self.alias, self.tags = b"", ()
        self.online = None

    def clear_token(self):
        self.channel, self.token, self.is_muted = 0, b"", False


registration_rows = st.tuples(
    st.sampled_from(MACHINE_IDS),
    st.one_of(
        st.sampled_from([(channel, token) for channel in (1, 2) for token in MACHINE_TOKENS]),
        st.just((0, b"")),
        # Faults of form.
        st.just((1, b"")),
        st.just((0, b"token without channel")),
    ),
    st.sampled_from([b"", b"user-1", b"user-2"]),
    st.lists(st.sampled_from([b"vip", b"new"]), unique=True),
)


class DeviceMachine(RuleBasedStateMachine):
    """Few ids, tokens and apps, so that they meet often."""

    def __init__(self):
        super().__init__()
        self.table = DeviceTable(MACHINE_LIMITS, KEY)
        self.devices: dict[tuple[int, bytes], PlainDevice] = {}
        self.now = 1000
        self.generation = 0
        #: What a registry has got of the marked rows, as columns of one device each.
        self.saved: dict[tuple[int, bytes], DeviceColumns] = {}

    def row(self, key):
        return self.table.find_one(key[1], key[0])

    @rule(app=st.integers(0, 1), rows=st.lists(registration_rows, max_size=12), wait=st.integers(0, 3))
    def register(self, app, rows, wait):
        self.now += wait
        result = self.table.register(
            app,
            batch_of(
                [(device_id, *target) for device_id, target, _, _ in rows],
                proven=7,
                aliases=[alias for _, _, alias, _ in rows],
                tags=[tags for _, _, _, tags in rows],
            ),
            self.now,
        )
        outcomes = self._register_plain(app, rows)
        assert [Outcome(outcome) for outcome in result.outcomes] == outcomes
        assert sorted(result.faults) == [at for at, outcome in enumerate(outcomes) if outcome is Outcome.REFUSED]
        for (device_id, *_), outcome, row in zip(rows, outcomes, result.rows.tolist(), strict=True):
            is_written = outcome in (Outcome.CREATED, Outcome.REPLACED)
            assert row == (self.row((app, device_id)) if is_written else -1)

    @rule(app=st.integers(0, 1), device_id=st.sampled_from(MACHINE_IDS), wait=st.integers(0, 3))
    def add_bare(self, app, device_id, wait):
        self.now += wait
        if (app, device_id) in self.devices:
            return
        if len(self.devices) >= MACHINE_LIMITS.devices_max:
            with pytest.raises(Overloaded, match="devices_max"):
                self.table.add_bare(device_id, app, self.now)
            return
        row = self.table.add_bare(device_id, app, self.now)
        assert row == self.row((app, device_id))
        self.devices[app, device_id] = plain = PlainDevice()
        plain.registered = self.now

    def _register_plain(self, app, rows):
        """One row after the other; what a later row of the same batch overrules is found by looking ahead."""
        n_devices = len(self.devices)
        is_good = [bool(channel) == bool(token) for _, (channel, token), _, _ in rows]
        outcomes, written = [], []
        for at, (device_id, *_) in enumerate(rows):
            if not is_good[at]:
                outcomes.append(Outcome.REFUSED)
            elif any(rows[later][0] == device_id and is_good[later] for later in range(at + 1, len(rows))):
                outcomes.append(Outcome.SUPERSEDED)
            elif (app, device_id) in self.devices:
                outcomes.append(Outcome.REPLACED)
                written.append(rows[at])
            elif n_devices < MACHINE_LIMITS.devices_max:
                n_devices += 1
                outcomes.append(Outcome.CREATED)
                written.append(rows[at])
            else:
                outcomes.append(Outcome.REFUSED)
        for device_id, (channel, token), alias, tags in written:
            device = self.devices.setdefault((app, device_id), PlainDevice())
            is_kept = token and (device.channel, device.token) == (channel, token)
            if token:
                for (other_app, other_id), other in self.devices.items():
                    if other_app == app and other_id != device_id and (other.channel, other.token) == (channel, token):
                        other.clear_token()
            device.channel, device.token, device.is_muted = channel, token, False
            device.proven = max(device.proven if is_kept else 0, 7)
            device.registered = self.now
            device.alias, device.tags = alias, tuple(tags)
        return outcomes

    @precondition(lambda self: self.devices)
    @rule(data=st.data(), fd=st.integers(0, 3))
    def set_online(self, data, fd):
        key = data.draw(st.sampled_from(sorted(self.devices)))
        self.generation += 1
        assert self.table.set_online(self.row(key), fd, self.generation, self.now) == self.devices[key].online
        self.devices[key].online = (fd, self.generation)

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def set_offline(self, data):
        keys = data.draw(st.lists(st.sampled_from(sorted(self.devices)), max_size=4))
        places = [
            data.draw(st.sampled_from([self.devices[key].online or (-1, 0), (0, 0), (1, self.generation)]))
            for key in keys
        ]
        gone = self.table.set_offline(
            array([self.row(key) for key in keys]),
            array([fd for fd, _ in places]),
            array([generation for _, generation in places], np.uint32),
            self.now,
        )
        assert gone.tolist() == [self.devices[key].online == place for key, place in zip(keys, places, strict=True)]
        for key, is_gone in zip(keys, gone.tolist(), strict=True):
            if is_gone:
                self.devices[key].online = None

    @precondition(lambda self: self.devices)
    @rule(data=st.data(), is_dead=st.booleans())
    def forget_or_mute_tokens(self, data, is_dead):
        keys = data.draw(st.lists(st.sampled_from(sorted(self.devices)), max_size=4))
        rows = array([self.row(key) for key in keys])
        is_same = np.array([data.draw(st.booleans()) for _ in keys], np.bool_)
        hashes = np.where(is_same, self.table.token_hashes(rows), np.uint32(12345)).astype(np.uint32)
        since = array([data.draw(st.sampled_from([SINCE_UNKNOWN, 1000 * self.now - 1500])) for _ in keys], np.int64)
        devices = [self.devices[key] for key in keys]
        expected = [bool(same and device.token) for same, device in zip(is_same, devices, strict=True)]
        if is_dead:
            for at, device in enumerate(devices):
                expected[at] &= bool(since[at] == SINCE_UNKNOWN or device.registered <= since[at] // 1000)
            assert self.table.forget_tokens(rows, hashes, since).tolist() == expected
        else:
            assert self.table.mute_tokens(rows, hashes).tolist() == expected
        for same, device, is_hit in zip(is_same, devices, expected, strict=True):
            if is_hit and is_dead:
                device.clear_token()
            elif is_hit and not device.is_muted:
                device.is_muted = True
            if same and (device.token or is_hit) and (is_dead or is_hit):
                device.proven = 0

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def remove(self, data):
        keys = data.draw(st.lists(st.sampled_from(sorted(self.devices)), max_size=3, unique=True))
        self.table.remove(array([self.row(key) for key in keys]))
        for key in keys:
            del self.devices[key]
            self.saved.pop(key, None)

    @rule()
    def save(self):
        (rows,) = self.table.changes.blocks()
        columns = self.table.export(rows)
        self.table.changes.drop(rows)
        for at in range(columns.n):
            self.saved[int(columns.apps[at]), columns.device_ids[at].tobytes()] = columns.take(array([at]))

    @rule(n_parts=st.integers(1, 3))
    def restart(self, n_parts):
        """A new table knows from the registry what the old one knew; only sessions end."""
        self.save()
        self.table = DeviceTable(MACHINE_LIMITS, KEY)
        saved = list(self.saved.values())
        restoring = self.table.restoring(len(saved))
        for part in range(n_parts):
            restoring.add(concatenate(saved[part::n_parts]))
        assert len(list(restoring.end())) <= 3
        assert restoring.n_lost == 0
        for device in self.devices.values():
            device.online = None

    @invariant()
    def every_device_is_what_the_model_says(self):
        for app in (0, 1):
            rows = rows_of(self.table, IDS, app)
            for device_id, row in zip(IDS, rows.tolist(), strict=True):
                plain = self.devices.get((app, device_id))
                assert (row == -1) == (plain is None)
                if plain is None:
                    continue
                device = self.table.device(row)
                assert (device.device_id, device.app_index) == (device_id, app)
                assert (device.channel, device.token, device.is_muted) == (plain.channel, plain.token, plain.is_muted)
                assert (device.alias, device.tags) == (plain.alias, plain.tags)
                assert (device.registered_unix_s, device.proven_unix_s) == (plain.registered, plain.proven)
                assert (device.fd, device.generation)[: 2 if plain.online else 1] == (plain.online or (-1,))

    @invariant()
    def columns_agree_with_single_devices(self):
        for app in (0, 1):
            rows = rows_of(self.table, IDS, app)
            routing = self.table.routing(rows)
            plain = [self.devices.get((app, device_id)) for device_id in IDS]
            assert routing.is_known.tolist() == [device is not None for device in plain]
            assert routing.is_online.tolist() == [bool(device and device.online) for device in plain]
            assert routing.has_token.tolist() == [
                bool(device and device.token and not device.is_muted) for device in plain
            ]
            assert routing.channel.tolist() == [device.channel if device else 0 for device in plain]
            for channel in (1, 2):
                taken = {}
                for group in self.table.take_tokens(rows, channel):
                    for position, token in zip(group.positions.tolist(), group.tokens, strict=True):
                        taken[position] = token.tobytes()
                assert taken == {
                    at: device.token
                    for at, device in enumerate(plain)
                    if device and device.channel == channel and device.token and not device.is_muted
                }
                column = TextColumn.from_rows(TOKENS)
                holders = self.table.find_tokens(channel, column, app).tolist()
                held = {device.token: at for at, device in enumerate(plain) if device and device.channel == channel}
                assert holders == [int(rows[held[token]]) if token in held else -1 for token in TOKENS]
                hashes = self.table.hash_tokens(channel, column, app).tolist()
                own = self.table.token_hashes(rows).tolist()
                assert all(own[at] == hashes[TOKENS.index(token)] for token, at in held.items() if token)

    @invariant()
    def counts_add_up(self):
        statistics = self.table.statistics()
        devices = self.devices.values()
        assert statistics.devices == len(self.table) == len(self.devices) == statistics.device_index.live
        assert statistics.online == sum(device.online is not None for device in devices)
        for app in (0, 1):
            expected = sum(device.online is not None for (its_app, _), device in self.devices.items() if its_app == app)
            assert self.table.online_count(app) == expected
        assert statistics.muted == sum(device.is_muted for device in devices)
        n_tokens = sum(bool(device.token) for device in devices)
        assert statistics.token_index.live == statistics.token_store.tokens == n_tokens
        assert statistics.details.devices_with_alias == sum(bool(device.alias) for device in devices)
        assert statistics.details.tag_bindings == sum(len(device.tags) for device in devices)


TestDeviceMachine = DeviceMachine.TestCase
TestDeviceMachine.settings = settings(stateful_step_count=20)


def test_find_of_many_agrees_with_find_of_one():
    rng = np.random.default_rng(3)
    table = DeviceTable(DeviceLimits(devices_max=20_000, token_bytes_max=1 << 20), KEY)
    ids = rng.integers(0, 256, (20_000, 16), dtype=np.uint8)
    none = TextColumn.from_rows([b""] * 1000)
    zeros = np.zeros(1000, np.uint32)
    for first in range(0, 20_000, 1000):
        table.register(3, Registrations(ids[first : first + 1000], zeros.astype(np.uint8), none, zeros), 1)
    asked = np.concatenate([ids[rng.integers(0, 20_000, 3000)], rng.integers(0, 256, (500, 16), dtype=np.uint8)])
    rows = table.find(asked, 3)
    assert rows.tolist() == [table.find_one(one.tobytes(), 3) for one in asked]
    assert (rows[:3000] > 0).all()
    assert (rows[3000:] == -1).all()
    assert (table.ids(rows[:3000]) == asked[:3000]).all()
    assert (table.find(asked, 4) == -1).all()
    for some in (asked, asked[:5], asked[2998:3002], asked[:0]):
        located, found = table.locate(some, 3)
        assert located.tolist() == table.find(some, 3).tolist()
        assert [column.tolist() for column in found] == [column.tolist() for column in table.routing(located)]
    assert table.statistics().device_index.longest_rebuild <= 16


def test_columns_need_not_be_contiguous(table):
    register(table, [(device_id, 1, TOKENS[0] + device_id[:1]) for device_id in IDS])
    wide = np.zeros((12, 40), np.uint8)
    wide[:, 5:21] = ids_of(IDS)
    assert table.find(wide[:, 5:21], 0).tolist() == rows_of(table, IDS).tolist()
    assert table.find(wide[:2, 5:21], 0).tolist() == rows_of(table, IDS[:2]).tolist()


def test_a_device_belongs_to_its_app_alone(table):
    register(table, [(IDS[0], 1, TOKENS[0])], app=0)
    register(table, [(IDS[0], 1, TOKENS[0])], app=1)
    rows = [table.find_one(IDS[0], app) for app in (0, 1, 2)]
    assert rows[0] != rows[1]
    assert rows[2] == -1
    assert [table.device(row).token for row in rows[:2]] == [TOKENS[0]] * 2


def test_the_newest_registration_of_a_token_wins(table):
    register(table, [(IDS[0], 1, TOKENS[0])])
    result = register(table, [(IDS[1], 1, TOKENS[0])])
    assert result.n_taken_over == 1
    first, second = rows_of(table, IDS[:2]).tolist()
    assert table.device(first).token == b""
    assert table.find_tokens(1, TextColumn.from_rows([TOKENS[0]]), 0).tolist() == [second]
    # The same text of another vendor is another token.
    assert register(table, [(IDS[2], 2, TOKENS[0])]).n_taken_over == 0


def test_the_last_of_two_devices_with_one_token_in_a_batch_has_it(table):
    result = register(table, [(IDS[0], 1, TOKENS[0]), (IDS[1], 1, TOKENS[0]), (IDS[2], 1, TOKENS[1])])
    assert result.n_taken_over == 1
    assert [table.device(row).token for row in result.rows.tolist()] == [b"", TOKENS[0], TOKENS[1]]


def test_devices_may_swap_tokens_in_one_batch(table):
    register(table, [(IDS[0], 1, TOKENS[0]), (IDS[1], 1, TOKENS[1])])
    result = register(table, [(IDS[0], 1, TOKENS[1]), (IDS[1], 1, TOKENS[0])])
    assert [table.device(row).token for row in result.rows.tolist()] == [TOKENS[1], TOKENS[0]]


def test_a_registration_is_the_whole_state_but_presence_stays(table):
    text = TextColumn.from_texts
    register(
        table,
        [(IDS[0], 1, TOKENS[0])],
        aliases=[b"user"],
        tags=[[b"vip", b"new"]],
        platforms=text(["ios"]),
        app_versions=text(["1.2"]),
        time_zones=text(["Asia/Shanghai"]),
    )
    row = table.find_one(IDS[0], 0)
    table.set_online(row, 5, 1, 90)
    device = table.device(row)
    assert device.profile == Profile(b"ios", b"1.2", b"Asia/Shanghai")
    assert (device.alias, device.tags) == (b"user", (b"vip", b"new"))
    assert table.alias_rows(0, b"user").tolist() == [row]
    result = register(table, [(IDS[0], 0, b"")])
    assert Outcome(result.outcomes[0]) is Outcome.REPLACED
    device = table.device(row)
    assert (device.channel, device.token, device.alias, device.tags, device.profile) == (0, b"", b"", (), Profile())
    assert (device.fd, device.generation, device.last_seen_unix_s) == (5, 1, 90)
    assert not len(table.alias_rows(0, b"user"))


def test_a_full_table_refuses_new_devices_and_keeps_serving_known_ones():
    table = DeviceTable(DeviceLimits(devices_max=2, token_bytes_max=1 << 16), KEY)
    result = register(table, [(IDS[0], 0, b""), (IDS[1], 0, b""), (IDS[2], 0, b""), (IDS[0], 1, TOKENS[0])])
    assert [Outcome(one).name for one in result.outcomes] == ["SUPERSEDED", "CREATED", "CREATED", "REFUSED"]
    assert len(table) == 2
    again = register(table, [(IDS[3], 0, b""), (table.ids(array([1]))[0].tobytes(), 2, TOKENS[1])])
    assert [Outcome(one) for one in again.outcomes] == [Outcome.REFUSED, Outcome.REPLACED]
    assert again.faults[0].text == "devices are 2, limit 2 (devices_max)"
    table.remove(array([1]))
    assert Outcome(register(table, [(IDS[4], 0, b"")]).outcomes[0]) is Outcome.CREATED


def test_a_full_token_store_refuses_the_row_and_leaves_the_device_as_it_was():
    table = DeviceTable(DeviceLimits(devices_max=2000, token_bytes_max=1 << 16), KEY)
    rows = [(n.to_bytes(16, "big"), 1, b"%064d" % n) for n in range(1025)]
    result = register(table, rows)
    assert list(result.faults) == [1024]
    assert result.faults[1024].text == "token of 64 bytes finds no room, limit 65536 bytes of all (token_bytes_max)"
    assert table.find_one(rows[1024][0], 0) == -1
    other = register(table, [(rows[0][0], 1, b"x" * 70)], aliases=[b"user"])
    assert list(other.faults) == [0]
    device = table.device(table.find_one(rows[0][0], 0))
    assert (device.token, device.alias) == (rows[0][2], b"")


def test_a_bare_device_is_what_a_registration_without_anything_makes(table):
    register(table, [(b"a" * 16, 0, b"")], now=100, app=1)
    table.add_bare(b"b" * 16, 1, 100)
    one, other = [table.device(int(row)) for row in rows_of(table, [b"a" * 16, b"b" * 16], app=1)]
    assert other == one._replace(device_id=b"b" * 16)


def test_an_alias_that_is_full_refuses_the_eleventh_device(table):
    rows = [(device_id, 0, b"") for device_id in IDS[:11]]
    result = register(table, rows, aliases=[b"user"] * 11)
    assert list(result.faults) == [10]
    assert "limit 10 (devices_per_alias_max)" in result.faults[10].text
    assert len(table.alias_rows(0, b"user")) == 10
    assert len(table) == 10


def test_a_dead_token_stays_when_the_device_registered_after_it_died(table):
    register(table, [(IDS[0], 1, TOKENS[0])], now=100)
    rows = rows_of(table, IDS[:1])
    hashes = table.token_hashes(rows)
    assert not table.forget_tokens(rows, hashes, array([99_999], np.int64))[0]
    assert table.device(int(rows[0])).token == TOKENS[0]
    assert table.forget_tokens(rows, hashes, array([100_000], np.int64))[0]
    assert table.device(int(rows[0])).token == b""
    # Once only, and a device without a token has none to forget even if the hash were right.
    assert not table.forget_tokens(rows, table.token_hashes(rows), array([SINCE_UNKNOWN], np.int64))[0]
    assert table.statistics().forgotten == 1


def test_only_the_present_connection_puts_a_device_offline_and_only_once(table):
    register(table, [(IDS[0], 0, b"")])
    rows = rows_of(table, IDS[:1])
    row = int(rows[0])
    assert table.set_online(row, 5, 1, 10) is None
    assert table.set_online(row, 6, 2, 20) == (5, 1)
    assert table.online_count() == table.online_count(0) == 1
    assert not table.set_offline(rows, array([5]), array([1], np.uint32), 30)[0]
    assert not table.set_offline(array([-1]), array([-1]), array([0], np.uint32), 30)[0]
    twice = np.repeat(rows, 2)
    assert table.set_offline(twice, array([6, 6]), array([2, 2], np.uint32), 40).tolist() == [True, True]
    assert table.online_count() == table.online_count(0) == 0
    assert table.device(row).last_seen_unix_s == 40


def test_a_late_verdict_does_not_touch_another_token(table):
    register(table, [(IDS[0], 1, TOKENS[0])])
    rows = rows_of(table, IDS[:1])
    old = table.token_hashes(rows)
    register(table, [(IDS[0], 1, TOKENS[1])])
    since = array([SINCE_UNKNOWN], np.int64)
    assert not table.forget_tokens(rows, old, since)[0]
    assert not table.mute_tokens(rows, old)[0]
    table.prove_tokens(rows, old, 500)
    device = table.device(int(rows[0]))
    assert (device.token, device.is_muted, device.proven_unix_s) == (TOKENS[1], False, 0)


def test_a_verdict_for_the_same_device_twice_counts_once(table):
    register(table, [(IDS[0], 1, TOKENS[0])])
    rows = np.repeat(rows_of(table, IDS[:1]), 2)
    hashes = table.token_hashes(rows)
    for _ in range(2):
        assert table.mute_tokens(rows, hashes).tolist() == [True, True]
        assert table.statistics().muted == 1
    assert table.forget_tokens(rows, hashes, array([SINCE_UNKNOWN] * 2, np.int64)).tolist() == [True, True]
    statistics = table.statistics()
    assert (statistics.muted, statistics.forgotten, statistics.token_store.tokens) == (0, 1, 0)


def test_a_verdict_against_a_token_that_stays_makes_it_suspect(table):
    register(table, [(IDS[0], 1, TOKENS[0])], now=400, proven=300)
    rows = rows_of(table, IDS[:1])
    hashes = table.token_hashes(rows)

    def is_proven():
        found = table.take_own_tokens(rows, np.frombuffer(IDS[0], np.uint8).reshape(1, 16), 1)
        named = table.are_proven(1, TextColumn.from_rows([TOKENS[0], b"nobody's"]), 0)
        assert named.tolist() == [bool(found.proven_unix_s[0]), False]
        return bool(found.proven_unix_s[0])

    def suspected(action):
        table.prove_tokens(rows, hashes, 300)
        assert is_proven()
        action()
        return not is_proven()

    assert suspected(lambda: table.suspect_tokens(rows, hashes))
    # the vendor saw it dead before it was registered again
    assert suspected(lambda: table.forget_tokens(rows, hashes, array([399_000], np.int64)))
    assert not suspected(lambda: table.suspect_tokens(rows, hashes + np.uint32(1)))
    assert suspected(lambda: table.mute_tokens(rows, hashes))
    register(table, [(IDS[0], 1, TOKENS[0])], now=500)
    assert not is_proven(), "it is probed once it may be sent to again"


def test_registering_again_ends_muting_and_keeps_the_proof_of_the_same_token(table):
    register(table, [(IDS[0], 1, TOKENS[0])])
    rows = rows_of(table, IDS[:1])
    table.mute_tokens(rows, table.token_hashes(rows))
    assert not table.routing(rows).has_token[0]
    table.prove_tokens(rows, table.token_hashes(rows), 300)
    register(table, [(IDS[0], 1, TOKENS[0])], now=400)
    device = table.device(int(rows[0]))
    assert (device.token, device.is_muted) == (TOKENS[0], False)
    assert (device.proven_unix_s, device.registered_unix_s) == (300, 400)
    assert table.find_tokens(1, TextColumn.from_rows([TOKENS[0]]), 0).tolist() == rows.tolist()
    register(table, [(IDS[0], 1, TOKENS[1])], now=400, proven=50)
    assert table.device(int(rows[0])).proven_unix_s == 50


def test_a_reused_row_answers_no_word_about_its_former_device(table):
    register(table, [(IDS[0], 1, TOKENS[0])], aliases=[b"user"])
    rows = rows_of(table, IDS[:1])
    old = table.token_hashes(rows)
    table.set_online(int(rows[0]), 4, 9, 1)
    table.remove(rows)
    register(table, [(IDS[1], 1, TOKENS[1])])
    assert rows_of(table, IDS[1:2]).tolist() == rows.tolist()
    assert not table.set_offline(rows, array([4]), array([9], np.uint32), 2)[0]
    assert not table.forget_tokens(rows, old, array([SINCE_UNKNOWN], np.int64))[0]
    device = table.device(int(rows[0]))
    assert (device.alias, device.fd, device.last_seen_unix_s) == (b"", -1, 0)


def test_tokens_longer_than_any_vendor_issues_are_refused_and_unknown(table):
    long = b"x" * 5000
    assert list(register(table, [(IDS[0], 1, long), (IDS[1], 1, TOKENS[0])]).faults) == [0]
    assert table.find_tokens(1, TextColumn.from_rows([long, b"", TOKENS[0]]), 0)[:2].tolist() == [-1, -1]
    assert table.hash_tokens(1, TextColumn.from_rows([long, b""]), 0).tolist() == [0, 0]


def test_faults_of_profiles_refuse_the_row(table):
    many = [f"1.{n}" for n in range(10)]
    result = register(table, [(device_id, 0, b"") for device_id in IDS[:10]], app_versions=TextColumn.from_texts(many))
    assert list(result.faults) == [8, 9]
    assert "limit 8 (profiles_max)" in result.faults[8].text
    # When a device has moved on, its number serves again.
    for version, is_refused in (("2.0", True), ("1.0", False), ("2.0", False)):
        result = register(table, [(IDS[7], 0, b"")], app_versions=TextColumn.from_texts([version]))
        assert bool(result.faults) == is_refused
    assert table.device(table.find_one(IDS[7], 0)).profile == Profile(app_version=b"2.0")


def test_empty_batches_change_nothing(table):
    result = register(table, [])
    assert len(result.rows) == len(result.outcomes) == 0
    assert table.find(np.zeros((0, 16), np.uint8), 0).tolist() == []
    assert table.take_tokens(np.zeros(0, np.int32), 1) == []
    table.remove(np.zeros(0, np.int32))
    assert len(table) == 0

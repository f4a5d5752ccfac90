"""The ledger against a plain model of it: whatever is done in whatever order, both say the same.

The model knows nothing of slots, chains or rings: balances by user, outcomes by client, and the
list of all that was committed. The region is small, so that slots are reused, the ring laps, and
where a journal is played the log is full now and then.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, TxnKind
from server.core.errors import ClientTaken, TableFull
from server.core.ledger import (
    DONE,
    FULL,
    FUNDS,
    LIMIT,
    MISMATCH,
    NO_USER,
    RECORDED,
    SUPERSEDED,
    SUPPLY,
    TOO_OLD,
)
from server.core.session import Session
from server.core.state import State
from server.region.layout import OUTCOME_FIELDS
from server.region.records import OFFSETS, RecordKind
from tests.helpers.region import (
    RETENTION_S,
    SMALL,
    VERIFIER,
    check_quiet,
    image,
    set_durable,
    small_region,
    state_of,
    word,
)

RING = 16
CLIENTS = 8
DEPOSIT, WITHDRAW, TRANSFER = TxnKind.DEPOSIT, TxnKind.WITHDRAW, TxnKind.TRANSFER
WORDS = 2**64


@dataclass
class Executed:
    """A request and its outcome."""

    kind: int
    other: int
    amount: int
    txn: int
    balance: int


@dataclass(eq=False)
class Client:
    """One that the server knows: all that was ever executed under it, by req_id."""

    user: int
    id: int
    slot: int
    floor: int
    newest: int = 0
    idle_since: int = 0  # seconds
    executed: dict[int, Executed] = field(default_factory=dict)


@dataclass(eq=False)
class Login:
    """A session that was opened, live or not."""

    session: Session
    state: State
    user: int
    client: Client | None
    live: bool = True


Record = dict[str, int]  # the numbers of a record of the log, by field

FULL_ACCOUNT = MAX_BALANCE // 2  # so that two may be full, and a third one then gets nothing

users = st.integers(1, 4)
workers = st.integers(0, 2)
logins = st.integers(0, SMALL.sessions - 1)  # modulo how many there are
amounts = st.one_of(
    st.integers(1, 100),
    st.sampled_from([FULL_ACCOUNT - 1, FULL_ACCOUNT, FULL_ACCOUNT + 1, MAX_BALANCE, WORDS - 1]),
)
kinds = st.sampled_from([DEPOSIT, WITHDRAW, TRANSFER])
flags = st.booleans()


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cleanup = ExitStack()
        self.now = 1_000
        self.lived = 5  # seconds
        self.balances: dict[int, int] = {}
        self.names: dict[str, int] = {}
        self.clients: dict[tuple[int, int], Client] = {}
        self.logins: list[Login] = []
        self.log: list[Record] = []
        self.supply = 0
        self.last: dict[int, int] = {}
        self.durable: int | None = None

    @initialize(account_locks=st.sampled_from([SMALL.accounts + 1, 1, 3]), journal=st.booleans())
    def begin(self, account_locks: int, journal: bool) -> None:
        self.region = self.cleanup.enter_context(
            small_region(txn_ring=RING, account_locks=account_locks, accounts=5, clients=CLIENTS)
        )
        self.states = [
            state_of(
                self.region,
                worker,
                clock_us=lambda: self.lived * 1_000_000,
                max_balance=FULL_ACCOUNT,
            )
            for worker in range(3)
        ]
        for user in range(1, 4):
            self._register(f"user{user}")
        for user in range(1, 4):
            self._log_in(user, 7, 1, self.states[user % 3])
            # so that there is something to spend, and a whole window below the newest
            self._request(self.logins[-1], DEPOSIT, 0, 100, 100, False)
        for client_id in range(8, 8 + CLIENTS - 3):  # no place is left
            self._log_in(2, client_id, 1, self.states[0])
            self._log_out(self.logins.pop())
        if journal:
            self._set_durable(0)

    def teardown(self) -> None:
        self.cleanup.close()

    # ---- the model

    @property
    def head(self) -> int:
        return len(self.log)

    def _full(self) -> bool:
        return self.durable is not None and self.head + 1 - RING > self.durable

    def _set_durable(self, txn: int) -> None:
        self.durable = txn
        set_durable(self.region, txn)

    def _commit(self, kind: int, **fields: int) -> int:
        self.log.append(
            {"txn_id": self.head + 1, "kind": kind, "time": self.now, "supply": self.supply}
            | fields
        )
        return self.head

    def _expected(
        self, login: Login, kind: int, other: int, amount: int, req_id: int, flagged: bool
    ) -> tuple[int, int, int]:
        """What the protocol says of a request, in its own order."""
        client = login.client
        if not login.live:
            return SUPERSEDED, 0, 0
        if client is None:
            if flagged:
                return TOO_OLD, 0, 0
        elif req_id <= client.newest - OUTCOME_WINDOW:
            return TOO_OLD, 0, 0
        elif (found := client.executed.get(req_id)) is not None:
            if (found.kind, found.other, found.amount) != (kind, other, amount):
                return MISMATCH, 0, 0
            return RECORDED, found.txn, found.balance
        elif req_id < client.floor:
            return TOO_OLD, 0, 0
        payer = 0 if kind == DEPOSIT else login.user
        payee = login.user if kind == DEPOSIT else other
        if kind == TRANSFER and payee not in self.balances:
            return NO_USER, 0, 0
        if payer and self.balances[payer] < amount:
            return FUNDS, 0, self.balances[payer]
        if payee and self.balances[payee] + amount > FULL_ACCOUNT:
            return LIMIT, 0, 0
        if not payer and self.supply + amount > MAX_BALANCE:
            return SUPPLY, 0, 0
        if self._full():
            return FULL, 0, 0
        return DONE, self.head + 1, self.balances[login.user] + (amount if not payer else -amount)

    def _apply(self, login: Login, kind: int, other: int, amount: int, req_id: int) -> None:
        payer = 0 if kind == DEPOSIT else login.user
        payee = login.user if kind == DEPOSIT else other
        before = {"from_previous": self.last.get(payer, 0), "to_previous": self.last.get(payee, 0)}
        if payer:
            self.balances[payer] -= amount
        else:
            self.supply += amount
        if payee:
            self.balances[payee] += amount
        else:
            self.supply -= amount
        txn = self._commit(
            kind,
            from_user=payer,
            to_user=payee,
            amount=amount,
            from_balance=self.balances.get(payer, 0),
            to_balance=self.balances.get(payee, 0),
            client_id=login.client.id if login.client else 0,
            req_id=req_id,
            **before,
        )
        self.last |= {user: txn for user in (payer, payee) if user}
        if login.client:
            login.client.newest = max(login.client.newest, req_id)
            login.client.executed[req_id] = Executed(
                kind, other, amount, txn, self.balances[login.user]
            )

    # ---- users and sessions

    def _register(self, name: str) -> None:
        user = len(self.balances) + 1
        assert self.states[0].users.register(name, VERIFIER, self.now) == user
        self.balances[user] = 0
        self._commit(RecordKind.REGISTER, user_id=user)

    @rule()
    def register(self) -> None:
        if len(self.balances) == 5 or self._full():
            with pytest.raises(TableFull):
                self.states[1].users.register("another", VERIFIER, self.now)
        else:
            self._register(f"user{len(self.balances) + 1}")

    def _log_in(
        self, user: int, client_id: int, ahead: int, state: State, *, halves: bool = False
    ) -> None:
        """A LOGIN whose next_req_id is so far ahead of what the client's record knows of. halves:
        as a worker does it, which waits for the disk between the two."""
        self.now += 1
        client = self.clients.get((user, client_id))
        next_req_id = max(1, ahead + (max(client.newest, client.floor - 1) if client else 0))

        def log_in() -> Session:
            if halves and client_id:
                new = state.sessions.introduce(user, client_id, next_req_id, self.now)
                assert new == (client is None)
            return state.sessions.login(user, "", client_id, next_req_id, 0, self.now)[0]

        given: Client | None = None
        live = [login for login in self.logins if login.live]
        supersedes = client is not None and any(login.client is client for login in live)
        if len(live) == SMALL.sessions and not supersedes:
            self._refused(log_in, "sessions")
            return
        if client is not None:
            if next_req_id <= client.newest or next_req_id < client.floor:
                with pytest.raises(ClientTaken):
                    log_in()
                return
        elif client_id:
            if len(self.clients) == CLIENTS:
                given = self._given_away(user)
                if given is None:
                    self._refused(log_in, "clients", self._wait_ms(user))
                    return
            if self._full():
                self._refused(log_in, "txn_ring")
                return
        session = log_in()
        if not halves:
            assert session.resumed == (client is not None)
        if client_id and client is None:
            event("new client")
            if given is not None:
                event("a record is given away")
                del self.clients[given.user, given.id]
            slot = given.slot if given else len(self.clients) + 1
            client = Client(user, client_id, slot, next_req_id, 0, self.lived)
            self.clients[user, client_id] = client
            self._commit(
                RecordKind.NEW_CLIENT,
                user_id=user,
                client_id=client_id,
                client_slot=slot,
                floor=next_req_id,
            )
        for login in self.logins:
            login.live = login.live and (client is None or login.client is not client)
        self.logins.append(Login(session, state, user, client))

    def _refused(self, log_in: Callable[[], object], setting: str, wait_ms: int = 1000) -> None:
        before = image(self.region)
        with pytest.raises(TableFull) as caught:
            log_in()
        assert (caught.value.setting, caught.value.retry_after_ms) == (setting, wait_ms)
        assert image(self.region) == before

    def _idle(self) -> list[Client]:
        """Without a live session."""
        live = [login.client for login in self.logins if login.live]
        return [client for client in self.clients.values() if client not in live]

    def _due(self, client: Client, user: int) -> int:
        """When this record may be given to a client of that user: lived seconds."""
        many = sum(other.user == client.user for other in self.clients.values()) > 4
        wait = 60 if client.user == user or many else RETENTION_S
        return client.idle_since + wait

    def _given_away(self, user: int) -> Client | None:
        """Whose record a new client of this user gets, by the rule in its own words."""
        free = [client for client in self._idle() if self._due(client, user) <= self.lived]
        own = [client for client in free if client.user == user]
        counts = Counter(client.user for client in self.clients.values())
        many = [client for client in free if counts[client.user] > 4]
        most = max((counts[client.user] for client in many), default=0)
        many = [client for client in many if counts[client.user] == most]
        first = own or many or free
        return min(first, key=lambda client: (client.idle_since, client.slot), default=None)

    def _wait_ms(self, user: int) -> int:
        """From now until there is one."""
        idle = self._idle()
        return (min(self._due(c, user) for c in idle) - self.lived) * 1000 if idle else 1000

    @rule(
        user=st.one_of(users, st.just(2)), worker=workers, halves=st.booleans(),
        client_id=st.sampled_from([0, 7, 7, 8, 9, 10, 11, 12, WORDS - 1]),
        ahead=st.sampled_from([1, 1, 1, 2, 40, 0, -1, -70]),
    )  # fmt: skip
    def log_in(self, user: int, client_id: int, ahead: int, worker: int, halves: bool) -> None:
        user = min(user, len(self.balances))
        self._log_in(user, client_id, ahead, self.states[worker], halves=halves)

    @rule(seconds=st.sampled_from([1, 30, 59, 60, 100, 500]))
    def time_passes(self, seconds: int) -> None:
        self.lived += seconds

    @rule(days=st.integers(1, 3))
    def the_clock_jumps(self, days: int) -> None:
        self.now += days * 86_400_000_000

    @precondition(lambda self: len(self.logins) > 1)
    @rule(which=logins)
    def log_out(self, which: int) -> None:
        self.now += 1
        self._log_out(self.logins.pop(which % len(self.logins)))

    def _log_out(self, login: Login) -> None:
        login.state.sessions.end(login.session, self.now)
        if login.live and login.client is not None:
            login.client.idle_since = self.lived

    # ---- money

    def _request(
        self, login: Login, kind: int, other: int, amount: int, req_id: int, flagged: bool
    ) -> None:
        self.now += 1
        expected = self._expected(login, kind, other, amount, req_id, flagged)
        answer = login.state.ledger.execute(
            login.session, kind, other, amount, req_id, flagged, self.now
        )
        event(f"outcome {answer[0]}")
        assert answer[0] == expected[0]
        if answer[0] in (DONE, RECORDED):
            assert answer == expected
        if answer[0] == FUNDS:
            assert answer[2] == expected[2]
        if answer[0] == DONE:
            self._apply(login, kind, other, amount, req_id)

    @rule(
        which=logins, kind=kinds, other=st.integers(0, 6), amount=amounts, ahead=st.integers(1, 3)
    )
    def next_request(self, which: int, kind: int, other: int, amount: int, ahead: int) -> None:
        """What a client does: its next req_id."""
        login = self.logins[which % len(self.logins)]
        newest = login.client.newest if login.client else self.now
        other = other if kind == TRANSFER and other != login.user else 0
        self._request(login, kind, other, amount, newest + ahead, False)

    @rule(
        which=logins, kind=kinds, other=st.integers(0, 6), amount=amounts, flagged=flags,
        away=st.one_of(st.integers(-70, 70), st.sampled_from([-65, -64, -63, 64, 1000])),
    )  # fmt: skip
    def some_request(
        self, which: int, kind: int, other: int, amount: int, away: int, flagged: bool
    ) -> None:
        """Any req_id around the newest, flagged or not."""
        login = self.logins[which % len(self.logins)]
        newest = login.client.newest if login.client else self.now
        other = other if kind == TRANSFER and other != login.user else 0
        self._request(login, kind, other, amount, max(1, newest + away), flagged)

    @rule(
        which=logins, nth=st.integers(0, 9), flagged=flags,
        change=st.sampled_from(["", "", "", "amount", "other", "kind"]),
    )  # fmt: skip
    def retry(self, which: int, nth: int, flagged: bool, change: str) -> None:
        """A req_id that was executed, the same or nearly."""
        login = self.logins[which % len(self.logins)]
        if login.client is None or not login.client.executed:
            return
        req_ids = sorted(login.client.executed, reverse=True)
        req_id = req_ids[nth % len(req_ids)]
        found = login.client.executed[req_id]
        kind, other, amount = found.kind, found.other, found.amount
        if change == "amount":
            amount += 1
        elif change == "kind":
            kind, other = (WITHDRAW, 0) if kind == DEPOSIT else (DEPOSIT, 0)
        elif change == "other" and kind == TRANSFER:
            other = next(user for user in range(1, 4) if user not in (login.user, other))
        self._request(login, kind, other, amount, req_id, flagged)

    @rule(which=logins, amount=st.integers(1, 100), count=st.integers(1, RING))
    def deposits(self, which: int, amount: int, count: int) -> None:
        """A run of them: the log goes on, and the window of the client."""
        login = self.logins[which % len(self.logins)]
        for _ in range(count):
            newest = login.client.newest if login.client else self.now
            self._request(login, DEPOSIT, 0, amount, newest + 1, False)

    @precondition(lambda self: self.durable is not None)
    @rule(behind=st.integers(0, 2 * RING))
    def journal(self, behind: int) -> None:
        """The journal has come so far, and never goes back."""
        self._set_durable(max(self.durable or 0, self.head - behind))

    # ---- reading

    @rule(which=logins)
    def balance(self, which: int) -> None:
        login = self.logins[which % len(self.logins)]
        shown = self.balances[login.user], self.last.get(login.user, 0)
        live, *found = login.state.ledger.balance(login.session)
        assert live == login.live
        assert not live or tuple(found) == shown

    @rule(
        user=users, before=st.one_of(st.just(0), st.integers(1, 200)), limit=st.integers(0, 20),
        worker=workers,
    )  # fmt: skip
    def history(self, user: int, before: int, limit: int, worker: int) -> None:
        expected = []
        for record in self.log[: -RING - 1 : -1]:
            if user not in (record.get("from_user"), record.get("to_user")):
                continue
            if before and record["txn_id"] >= before:
                continue
            payer = record["from_user"]
            expected.append(
                (
                    *(record[name] for name in ("txn_id", "time", "kind", "from_user", "to_user")),
                    record["amount"],
                    record["from_balance" if payer == user else "to_balance"],
                    record["req_id"] if payer in (0, user) else 0,
                )
            )
        shown, _ = self.states[worker].ledger.history(user, before, limit)
        assert shown == expected[:limit]

    # ---- at every step

    @invariant()
    def accounts_are_the_models(self) -> None:
        for user in range(SMALL.accounts - 2):
            assert word(self.region, "accounts", user, "balance") == self.balances.get(user, 0)
            assert word(self.region, "accounts", user, "last_txn") == self.last.get(user, 0)
        assert sum(self.balances.values()) % WORDS == self.supply

    @invariant()
    def the_log_has_no_hole(self) -> None:
        read = self.states[0].log.read
        assert self.states[0].log.head() == self.head
        assert read(self.head + 1) is None
        for txn in range(max(1, self.head - RING - 1), self.head + 1):
            words = read(txn)
            if txn <= self.head - RING:
                assert words is None
                continue
            assert words is not None
            expected = self.log[txn - 1]
            at = OFFSETS[RecordKind(expected["kind"])]
            assert {name: words[at[name]] for name in expected} == expected

    @invariant()
    def chains_lead_through_the_whole_ring(self) -> None:
        for user in self.balances:
            chain, txn = [], word(self.region, "accounts", user, "last_txn")
            while txn and (record := self.states[0].log.read(txn)) is not None:
                chain.append(txn)
                at = OFFSETS[RecordKind(record[1])]
                payer = record[at["from_user"]] == user
                txn = record[at["from_previous" if payer else "to_previous"]]
            assert chain == [
                record["txn_id"]
                for record in self.log[: -RING - 1 : -1]
                if user in (record.get("from_user"), record.get("to_user"))
            ]

    @invariant()
    def outcomes_are_the_models(self) -> None:
        clients = self.region.layout["clients"]
        for login in self.logins:
            if login.client not in self.clients.values():
                continue
            assert login.client is not None
            slot, model = login.session.client_slot - 1, login.client
            at = clients.at(slot, "outcomes")
            words = self.region.words[at : at + clients.lengths["outcomes"]].tolist()
            rows = [words[n : n + 5] for n in range(0, len(words), len(OUTCOME_FIELDS))]
            assert slot == model.slot - 1
            assert word(self.region, "clients", slot, "floor") == model.floor
            assert word(self.region, "clients", slot, "newest") == model.newest
            kept = {
                row[0]: Executed(row[3] >> 32, row[3] & 0xFFFFFFFF, row[4], row[1], row[2])
                for row in rows
                if row[0] > max(0, model.newest - OUTCOME_WINDOW)
            }
            assert kept == {
                req_id: executed
                for req_id, executed in model.executed.items()
                if req_id > model.newest - OUTCOME_WINDOW
            }

    @invariant()
    def nobody_is_in_the_middle_of_anything(self) -> None:
        check_quiet(self.region)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=60)

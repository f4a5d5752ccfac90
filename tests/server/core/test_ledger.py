"""Money, as tables that read like a ledger: who asks for what under which req_id, and what becomes
of it.

    a  is ann/7                   a logs in as ann with client_id 7: a new session
    a  deposit 100  #1  DONE 100  req_id 1; its balance afterwards
    a  pay bob 30   #2? RECORDED 70   with POSSIBLE_DUPLICATE
    payments 3 to 20              the least and the most of one; the first line
    deposits by tellers           who may deposit and withdraw; the first line
    role ann TELLER | state bob DELETED   what a user is from then on
    log full | log drained        the journal does not, or does, keep up
    = ann 70, bob 30              the balances

DONE is the next txn_id, RECORDED the one that was answered before; of what is refused, nothing in
the whole region may have changed. Each table is run with a lock per account and with shared ones.
"""

import re
from collections.abc import Callable

import pytest

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, TxnKind
from server.core.errors import ClientTaken
from server.core.ledger import (
    AMOUNT,
    DONE,
    FULL,
    FUNDS,
    LIMIT,
    MISMATCH,
    NO_RIGHT,
    NO_USER,
    RECORDED,
    SUPERSEDED,
    SUPPLY,
    TOO_OLD,
    Ledger,
)
from server.core.log import NO_JOURNAL
from server.core.outcomes import Outcomes
from server.core.session import Session
from server.core.state import State
from server.region.records import OFFSETS, RecordKind, UserRole, UserState
from server.region.region import Region
from tests.helpers.region import (
    SMALL,
    STARTED_US,
    Recovery,
    check_quiet,
    image,
    lock_value,
    login,
    register,
    set_durable,
    set_word,
    small_region,
    state_of,
    watched,
    word,
)

RING = 4
USERS = {"world": 0, "ann": 1, "bob": 2, "cyd": 3, "nobody": 4, "beyond": SMALL.accounts + 1}
USERS["far"] = 2**32 - 1
# Two accounts may be full: the supply has a limit of its own.
FULL_ACCOUNT = MAX_BALANCE // 2
AMOUNTS = {
    "max": FULL_ACCOUNT,
    "max-1": FULL_ACCOUNT - 1,
    "max+1": FULL_ACCOUNT + 1,
    "huge": 2**64 - 1,
}
KINDS = {"deposit": TxnKind.DEPOSIT, "withdraw": TxnKind.WITHDRAW, "pay": TxnKind.TRANSFER}
SUPPLY_AT = OFFSETS[RecordKind.DEPOSIT]["supply"]

TABLES = {
    "money comes in, moves and goes out": """
        a  is ann/7
        b  is bob/7
        a  deposit 100          #1   DONE 100
        a  pay bob 30           #2   DONE 70
        b  pay ann 10           #1   DONE 20
        b  withdraw 20          #2   DONE 0
        = ann 80, bob 0
    """,
    "the smallest and the largest": """
        a  is ann/7
        b  is bob/7
        a  deposit 1            #1   DONE 1
        a  withdraw 1           #2   DONE 0
        a  deposit max          #3   DONE max
        a  pay bob max          #4   DONE 0
        b  withdraw max         #1   DONE 0
        = ann 0, bob 0
    """,
    "a balance is never negative": """
        a  is ann/7
        b  is bob/7
        a  withdraw 1           #1   FUNDS 0
        a  deposit 10           #1   DONE 10
        a  withdraw 11          #2   FUNDS 10
        a  pay bob 11           #2   FUNDS 10
        a  pay bob huge         #2   FUNDS 10
        a  withdraw huge        #2   FUNDS 10
        b  pay ann 1            #1   FUNDS 0
        a  withdraw 10          #2   DONE 0
        = ann 0, bob 0
    """,
    "a balance has a limit": """
        a  is ann/7
        b  is bob/7
        a  deposit max+1        #1   LIMIT
        a  deposit huge         #1   LIMIT
        a  deposit max          #1   DONE max
        a  deposit 1            #2   LIMIT
        b  deposit 1            #1   DONE 1
        b  pay ann 1            #2   LIMIT
        a  pay bob max          #2   LIMIT
        a  withdraw 1           #2   DONE max-1
        b  pay ann 1            #2   DONE 0
        = ann max, bob 0
    """,
    "the supply has a limit": """
        a  is ann/7
        b  is bob/7
        c  is cyd/7
        a  deposit max          #1   DONE max
        b  deposit max          #1   DONE max
        c  deposit 2            #1   SUPPLY
        c  deposit 1            #1   DONE 1
        c  deposit 1            #2   SUPPLY
        c  deposit 1            #1   RECORDED 1
        c  pay ann 1            #2   LIMIT
        a  withdraw max         #2   DONE 0
        c  deposit max-1        #2   DONE max
        c  deposit 1            #3   LIMIT
        a  deposit 1            #3   DONE 1
        a  deposit 1            #4   SUPPLY
        log full
        a  deposit 1            #4   SUPPLY
        log drained
        c  pay ann max-1        #3   DONE 1
        = ann max, bob max, cyd 1
    """,
    "a payment has limits, which deposits have not": """
        payments 3 to 20
        a  is ann/7
        b  is bob/7
        a  deposit 100          #1   DONE 100
        a  deposit 1            #2   DONE 101
        a  pay bob 2            #3   AMOUNT
        a  pay bob 21           #3   AMOUNT
        a  pay bob 3            #3   DONE 98
        a  pay bob 20           #4   DONE 78
        a  withdraw 78          #5   DONE 0
        b  withdraw 1           #1   DONE 22
        b  deposit max-1        #2   LIMIT
        = ann 0, bob 22
    """,
    "the recorded outcome, the unknown user and funds before the limits of a payment": """
        payments 3 to 20
        a  is ann/7
        b  is bob/7
        a  deposit 20           #1   DONE 20
        a  pay bob 20           #2   DONE 0
        a  pay nobody 2         #3   NO_USER
        a  pay bob 2            #3   FUNDS 0
        a  pay bob 2            #2   MISMATCH
        b  deposit max          #1   LIMIT
        b  pay ann 2            #1   AMOUNT
        = ann 0, bob 20
    """,
    "the limits of a payment before the receiver's": """
        payments 3 to 20
        a  is ann/7
        b  is bob/7
        a  deposit max          #1   DONE max
        b  deposit 30           #1   DONE 30
        b  pay ann 2            #2   AMOUNT
        b  pay ann 21           #2   AMOUNT
        b  pay ann 20           #2   LIMIT
        = ann max, bob 30
    """,
    "who may deposit and withdraw": """
        deposits by tellers
        a  is ann/7
        b  is bob/7
        a  deposit 1            #1   NO_RIGHT
        a  withdraw 1           #1   NO_RIGHT
        role ann TELLER
        a  deposit 20           #1   DONE 20
        role bob OPERATOR
        b  deposit 7            #1   DONE 7
        role ann USER
        a  deposit 20           #1?  RECORDED 20
        a  deposit 21           #1   MISMATCH
        a  deposit 5            #2   NO_RIGHT
        a  withdraw 21          #2   NO_RIGHT
        a  pay bob 20           #2   DONE 0
        = ann 0, bob 27
    """,
    "nobody deposits": """
        deposits by closed
        a  is ann/7
        role ann TELLER
        a  deposit 1            #1   NO_RIGHT
        a  withdraw huge        #1   NO_RIGHT
        a  pay bob 1            #1   FUNDS 0
        = ann 0
    """,
    "who was deleted is not paid": """
        a  is ann/7
        b  is bob/7
        a  deposit 10           #1   DONE 10
        a  pay bob 1            #2   DONE 9
        b  pay ann 1            #1   DONE 0
        state bob DISABLED
        b  deposit 1            #2   SUPERSEDED
        a  pay bob 1            #3   DONE 9
        a  pay bob 1            #3?  RECORDED 9
        state bob ACTIVE
        B  is bob/7
        B  pay ann 1            #2   DONE 0
        state bob DELETED
        B  pay ann 1            #2   SUPERSEDED
        a  pay bob 11           #4   NO_USER
        a  pay bob 1            #3?  RECORDED 9
        = ann 10, bob 0
    """,
    "only users are paid": """
        a  is ann/7
        a  deposit 10           #1   DONE 10
        a  pay world 1          #2   NO_USER
        a  pay nobody 1         #2   NO_USER
        a  pay beyond 1         #2   NO_USER
        a  pay far 1            #2   NO_USER
        a  pay cyd 1            #2   DONE 9
        = ann 9, cyd 1
    """,
    "a request is executed once, flag or not, in this session or the next": """
        a  is ann/7
        a  deposit 100          #1   DONE 100
        a  deposit 100          #1   RECORDED 100
        a  deposit 100          #1?  RECORDED 100
        a  pay bob 30           #2   DONE 70
        a  withdraw 5           #3   DONE 65
        A  is ann/7
        A  pay bob 30           #2   RECORDED 70
        A  pay bob 30           #2?  RECORDED 70
        A  deposit 100          #1?  RECORDED 100
        A  withdraw 5           #3?  RECORDED 65
        = ann 65, bob 30
    """,
    "a request that was not executed is executed at its retry": """
        a  is ann/7
        a  deposit 100          #1   DONE 100
        A  is ann/7
        A  deposit 5            #2?  DONE 105
        A  deposit 5            #2?  RECORDED 105
        = ann 105
    """,
    "a req_id with other contents": """
        a  is ann/7
        a  deposit 100          #1   DONE 100
        a  pay bob 30           #2   DONE 70
        a  deposit 101          #1   MISMATCH
        a  withdraw 100         #1   MISMATCH
        a  pay bob 100          #1?  MISMATCH
        a  pay cyd 30           #2   MISMATCH
        a  pay bob 31           #2?  MISMATCH
        a  withdraw 30          #2   MISMATCH
        a  pay bob 30           #2   RECORDED 70
        = ann 70, bob 30, cyd 0
    """,
    "another client's and another user's req_ids are their own": """
        a  is ann/7
        c  is ann/8
        b  is bob/7
        a  deposit 1            #5   DONE 1
        c  deposit 2            #5   DONE 3
        b  deposit 4            #5   DONE 4
        a  deposit 1            #5   RECORDED 1
        c  deposit 2            #5   RECORDED 3
        b  deposit 4            #5   RECORDED 4
        = ann 3, bob 4
    """,
    "of what is below the floor of its record nothing is known, in later sessions either": """
        a  is ann/7 from 5
        a  deposit 100          #4   TOO_OLD
        a  deposit 100          #4?  TOO_OLD
        a  deposit 100          #5?  DONE 100
        a  deposit 100          #5?  RECORDED 100
        a  deposit 100          #1?  TOO_OLD
        A  is ann/7 from 6
        A  deposit 100          #4?  TOO_OLD
        A  deposit 100          #4   TOO_OLD
        A  deposit 100          #8?  DONE 200
        A  deposit 100          #6   DONE 300
        A  deposit 100          #4?  TOO_OLD
        = ann 300
    """,
    "a later login does not raise the floor": """
        a  is ann/7 from 5
        A  is ann/7 from 9
        A  deposit 100          #8?  DONE 100
        A  deposit 100          #5?  DONE 200
        A  deposit 100          #4?  TOO_OLD
        = ann 200
    """,
    "a login that knows less than the record is refused, and supersedes nothing": """
        a  is ann/7 from 5
        A  is ann/7 from 4 refused
        a  deposit 1            #5   DONE 1
        A  is ann/7 from 5 refused
        A  is ann/7 from 1 refused
        a  withdraw 5           #9   FUNDS 1
        a  deposit 1            #7   DONE 2
        A  is ann/7 from 7 refused
        a  deposit 1            #6   DONE 3
        A  is ann/7 from 8
        a  deposit 1            #8   SUPERSEDED
        A  deposit 1            #6?  RECORDED 3
        = ann 3
    """,
    "the floor is of one client": """
        a  is ann/7 from 5
        c  is ann/8
        b  is bob/7 from 3
        c  deposit 1            #1?  DONE 1
        b  deposit 1            #3?  DONE 1
        b  deposit 1            #2?  TOO_OLD
        = ann 1, bob 1
    """,
    "the floor before the unknown user, funds and the limit": """
        a  is ann/7 from 5
        a  deposit 10           #5   DONE 10
        a  pay nobody 1         #4   TOO_OLD
        a  pay world 1          #4?  TOO_OLD
        a  withdraw 11          #4   TOO_OLD
        a  deposit max          #4?  TOO_OLD
        = ann 10
    """,
    "client_id 0 takes no part": """
        z  is ann/0
        z  deposit 10           #1   DONE 10
        z  deposit 10           #1   DONE 20
        z  deposit 11           #1   DONE 31
        z  deposit 10           #1?  TOO_OLD
        Z  is ann/0
        Z  deposit 10           #2?  TOO_OLD
        z  withdraw 1           #2   DONE 30
        Z  withdraw 1           #2   DONE 29
        = ann 29
    """,
    "a later login takes the session's place": """
        a  is ann/7
        c  is ann/8
        a  deposit 100          #1   DONE 100
        A  is ann/7
        a  deposit 1            #2   SUPERSEDED
        a  deposit 100          #1   SUPERSEDED
        c  deposit 1            #1   DONE 101
        A  deposit 1            #2   DONE 102
        b  is bob/7
        A  deposit 1            #3   DONE 103
        = ann 103
    """,
    "a session that has ended is over": """
        a  is ann/7
        a  deposit 100          #1   DONE 100
        a  ends
        a  deposit 1            #2   SUPERSEDED
        A  is ann/7
        a  deposit 1            #2   SUPERSEDED
        A  deposit 1            #2   DONE 101
        = ann 101
    """,
    "refusals do not move the window and leave no outcome": """
        a  is ann/7
        a  deposit 10           #100 DONE 10
        a  withdraw 11          #200 FUNDS 10
        a  pay nobody 1         #200 NO_USER
        a  deposit max          #200 LIMIT
        a  deposit 1            #37  DONE 11
        a  deposit 5            #200 DONE 16
        = ann 16
    """,
    "the window is the last 64 req_ids, executed or not": """
        a  is ann/7
        a  deposit 1            #10  DONE 1
        a  deposit 2            #1000 DONE 3
        a  deposit 4            #936 TOO_OLD
        a  deposit 4            #937 DONE 7
        a  deposit 4            #937 RECORDED 7
        a  deposit 2            #1000 RECORDED 3
        a  deposit 1            #10  TOO_OLD
        a  deposit 1            #10? TOO_OLD
        a  deposit 9            #10  TOO_OLD
        a  deposit 1            #11  TOO_OLD
        a  deposit 8            #1001 DONE 15
        a  deposit 4            #937 TOO_OLD
        a  deposit 16           #938 DONE 31
        = ann 31
    """,
    "req_ids at the top of their range": """
        a  is ann/7
        a  deposit 1            #18446744073709551615 DONE 1
        a  deposit 1            #18446744073709551615 RECORDED 1
        a  deposit 2            #18446744073709551552 DONE 3
        a  deposit 4            #18446744073709551551 TOO_OLD
        a  deposit 4            #1   TOO_OLD
        = ann 3
    """,
    # ---- the order of the checks: of two reasons to refuse, the one that is told
    "superseded before the recorded outcome, the window, and the rest": """
        a  is ann/7
        a  deposit 5            #100 DONE 5
        A  is ann/7
        a  deposit 5            #100 SUPERSEDED
        a  deposit 6            #100 SUPERSEDED
        a  deposit 5            #1   SUPERSEDED
        a  pay nobody 5         #101 SUPERSEDED
        a  withdraw 6           #101 SUPERSEDED
        a  deposit max          #101 SUPERSEDED
        = ann 5
    """,
    "the recorded outcome before funds that the request itself has spent": """
        a  is ann/7
        a  deposit 10           #1   DONE 10
        a  pay bob 10           #2   DONE 0
        a  pay bob 10           #2?  RECORDED 0
        b  is bob/7
        b  withdraw 7           #1   DONE 3
        b  withdraw 7           #1?  RECORDED 3
        b  withdraw 8           #1   MISMATCH
        = ann 0, bob 3
    """,
    "the recorded outcome before the limit that the request itself has reached": """
        a  is ann/7
        b  is bob/7
        a  deposit max          #1   DONE max
        a  deposit max          #1?  RECORDED max
        a  deposit 1            #1   MISMATCH
        b  deposit 2            #1   DONE 2
        a  withdraw 1           #2   DONE max-1
        b  pay ann 1            #2   DONE 1
        b  pay ann 1            #2?  RECORDED 1
        = ann max, bob 1
    """,
    "the recorded outcome before the unknown user": """
        a  is ann/7
        a  deposit 10           #1   DONE 10
        a  pay nobody 10        #1   MISMATCH
        a  pay world 10         #1   MISMATCH
        = ann 10
    """,
    "the window before the unknown user, funds and the limit": """
        a  is ann/7
        a  deposit 10           #100 DONE 10
        a  pay nobody 1         #36  TOO_OLD
        a  pay world 1          #36  TOO_OLD
        a  withdraw 11          #36  TOO_OLD
        a  deposit max          #36  TOO_OLD
        a  pay nobody 1         #101? NO_USER
        a  pay world 1          #101? NO_USER
        a  withdraw 11          #101? FUNDS 10
        a  deposit max          #101? LIMIT
        = ann 10
    """,
    "the unknown user before funds": """
        a  is ann/7
        a  pay nobody 1         #1   NO_USER
        a  pay world 1          #1   NO_USER
        a  pay far huge         #1   NO_USER
        = ann 0
    """,
    "funds before the receiver's limit": """
        a  is ann/7
        b  is bob/7
        b  deposit max          #1   DONE max
        a  pay bob 1            #1   FUNDS 0
        a  deposit 1            #1   DONE 1
        a  pay bob 2            #2   FUNDS 1
        a  pay bob 1            #2   LIMIT
        = ann 1, bob max
    """,
    "a full log after all of them": """
        a  is ann/7
        b  is bob/7
        z  is ann/0
        a  deposit 10           #100 DONE 10
        b  deposit max          #1   DONE max
        log full
        a  deposit 1            #101 FULL
        a  withdraw 1           #101 FULL
        a  pay cyd 1            #101 FULL
        z  deposit 1            #1   FULL
        a  deposit 10           #100 RECORDED 10
        a  deposit 10           #100? RECORDED 10
        a  deposit 11           #100 MISMATCH
        a  deposit 1            #36  TOO_OLD
        a  pay nobody 1         #101 NO_USER
        a  withdraw 11          #101 FUNDS 10
        a  pay bob 1            #101 LIMIT
        z  deposit 1            #1?  TOO_OLD
        log drained
        a  pay cyd 1            #101 DONE 9
        z  deposit 1            #1   DONE 10
        = ann 10, cyd 1, bob max
    """,
}


NAMES = {
    DONE: "DONE",
    RECORDED: "RECORDED",
    SUPERSEDED: "SUPERSEDED",
    MISMATCH: "MISMATCH",
    NO_RIGHT: "NO_RIGHT",
    TOO_OLD: "TOO_OLD",
    NO_USER: "NO_USER",
    FUNDS: "FUNDS",
    AMOUNT: "AMOUNT",
    LIMIT: "LIMIT",
    SUPPLY: "SUPPLY",
    FULL: "FULL",
}


def number_of(amount: str) -> int:
    return AMOUNTS[amount] if amount in AMOUNTS else int(amount)


REQUEST = re.compile(
    r"(?P<actor>\w+) +(?P<verb>deposit|withdraw|pay) +((?P<other>[a-z]+) +)?(?P<amount>\S+)"
    r" +#(?P<req_id>\d+)(?P<flag>\??) +(?P<what>[A-Z_]+)( +(?P<balance>\S+))?"
)


class Table:
    """Runs the lines of a table. Every session is on another worker than the one before it."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.states = self.workers()
        self.sessions: dict[str, tuple[State, Session]] = {}
        self.recorded: dict[tuple[int, int, int], tuple[int, int]] = {}
        register(self.states[0], "ann", "bob", "cyd")

    def workers(
        self, least: int = 1, most: int = MAX_BALANCE, deposits: str = "open"
    ) -> list[State]:
        return [
            state_of(
                self.region, worker, max_balance=FULL_ACCOUNT, transfers=(least, most),
                deposits=deposits,
            )
            for worker in range(3)
        ]  # fmt: skip

    def run(self, line: str) -> None:
        match line.split():
            case ["payments", least, "to", most]:
                self.states = self.workers(int(least), int(most))
            case ["deposits", "by", who]:
                self.states = self.workers(deposits=who)
            case ["role", name, role]:
                self.states[2].operators.set_user(USERS[name], STARTED_US, role=UserRole[role])
            case ["state", name, state_]:
                new = UserState[state_]
                self.states[2].operators.set_user(USERS[name], STARTED_US, state=new)
            case ["log", what]:
                head = self.states[0].log.head()
                limit = head if what == "full" else NO_JOURNAL
                set_word(self.region, "log", 0, "limit", limit)
            case ["=", *_]:
                self.check(line.strip("= "))
            case [actor, "is", client, *asked]:
                name, client_id = client.split("/")
                state = self.states[len(self.sessions) % len(self.states)]
                req_id = int(asked[1]) if asked else 0
                if asked[2:] == ["refused"]:
                    before = image(self.region)
                    with pytest.raises(ClientTaken):
                        login(state, USERS[name], int(client_id), next_req_id=req_id)
                    assert image(self.region) == before
                else:
                    made = login(state, USERS[name], int(client_id), next_req_id=req_id)
                    self.sessions[actor] = state, made
            case [actor, "ends"]:
                state, session = self.sessions[actor]
                state.sessions.end(session, STARTED_US)
            case _:
                request = REQUEST.fullmatch(line)
                assert request, f"not a line of a table: {line}"
                self.request(**{name: request[name] or "" for name in REQUEST.groupindex})

    def request(
        self, actor: str, verb: str, other: str, amount: str, req_id: str, flag: str, what: str,
        balance: str,
    ) -> None:  # fmt: skip
        state, session = self.sessions[actor]
        before, head = image(self.region), state.log.head()
        got, txn, told = state.ledger.execute(
            session, KINDS[verb], USERS[other or "world"], number_of(amount), int(req_id),
            flag == "?", STARTED_US,
        )  # fmt: skip
        assert NAMES[got] == what
        request = session.user, session.client_id, int(req_id)
        if what == "DONE":
            assert txn == state.log.head() == head + 1
            self.recorded[request] = txn, told
        else:
            assert image(self.region) == before, "refused, and yet something has changed"
        if what == "RECORDED":
            assert (txn, told) == self.recorded[request]
        if what in ("DONE", "RECORDED", "FUNDS"):
            assert told == number_of(balance)

    def check(self, balances: str) -> None:
        for item in balances.split(", "):
            name, balance = item.split()
            assert word(self.region, "accounts", USERS[name], "balance") == number_of(balance), name
        everything = sum(word(self.region, "accounts", user, "balance") for user in range(9))
        record = self.states[0].log.read(self.states[0].log.head())
        assert record is not None
        assert record[SUPPLY_AT] == everything
        check_quiet(self.region)


@pytest.mark.parametrize("account_locks", [SMALL.accounts + 1, 1, 3])
@pytest.mark.parametrize("name", TABLES)
def test_table(name: str, account_locks: int) -> None:
    with small_region(txn_ring=RING, account_locks=account_locks) as region:
        table = Table(region)
        for line in TABLES[name].strip().splitlines():
            try:
                table.run(line.strip())
            except AssertionError as error:
                error.add_note(f"at: {line.strip()}")
                raise


def test_every_outcome_is_in_a_table() -> None:
    said = {word for text in TABLES.values() for word in text.split() if word in NAMES.values()}
    assert said == set(NAMES.values())


@pytest.mark.parametrize("newest", [64, 65, 127, 200, 1000])
def test_the_last_64_are_kept_and_no_more(newest: int) -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1, 7)
        done = {
            req: state.ledger.execute(session, TxnKind.DEPOSIT, 0, req, req, False, 1)
            for req in range(1, newest + 1)
        }
        assert {answer[0] for answer in done.values()} == {DONE}
        session = login(state, 1, 7)
        for flagged in (False, True):
            for req in range(1, newest + 1):
                answer = state.ledger.execute(session, TxnKind.DEPOSIT, 0, req, req, flagged, 1)
                if req > newest - OUTCOME_WINDOW:
                    assert answer == (RECORDED, *done[req][1:])
                else:
                    assert answer[0] == TOO_OLD, req


def test_balance_and_last_transaction_are_the_callers_own() -> None:
    with small_region() as region:
        state, other = state_of(region), state_of(region, 1)
        register(state, "ann", "bob", "cyd")
        ann, bob = login(state, 1, 7), login(other, 2, 7)
        assert state.ledger.balance(ann) == (True, 0, 0)
        _, deposited, _ = state.ledger.execute(ann, TxnKind.DEPOSIT, 0, 100, 1, False, 1)
        assert state.ledger.balance(ann) == (True, 100, deposited)
        assert other.ledger.balance(bob) == (True, 0, 0)
        _, paid, _ = state.ledger.execute(ann, TxnKind.TRANSFER, 2, 30, 2, False, 1)
        assert state.ledger.balance(ann) == (True, 70, paid)
        assert other.ledger.balance(bob) == (True, 30, paid), "received ones included"
        other.ledger.execute(bob, TxnKind.WITHDRAW, 0, 31, 1, False, 1)
        assert other.ledger.balance(bob) == (True, 30, paid)
        newer = login(other, 1, 7)
        assert not state.ledger.balance(ann)[0]
        assert other.ledger.balance(newer) == (True, 70, paid)
        other.sessions.end(newer, 2)
        assert not other.ledger.balance(newer)[0]
        check_quiet(region)


def test_history_is_the_callers_own_newest_first() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann", "bob", "cyd")
        ann, bob = login(state, 1, 7), login(state, 2, 0)
        first = state.log.head() + 1
        for session, kind, other, amount, req_id, now in (
            (ann, TxnKind.DEPOSIT, 0, 100, 11, STARTED_US + 0),
            (bob, TxnKind.DEPOSIT, 0, 50, 22, STARTED_US + 1),
            (ann, TxnKind.TRANSFER, 2, 30, 12, STARTED_US + 2),
            (ann, TxnKind.WITHDRAW, 0, 5, 13, STARTED_US + 3),
            (bob, TxnKind.TRANSFER, 1, 8, 23, STARTED_US + 4),
            (bob, TxnKind.TRANSFER, 3, 1, 24, STARTED_US + 5),
        ):
            assert state.ledger.execute(session, kind, other, amount, req_id, False, now)[0] == DONE
        #  txn_id, time, kind, from, to, amount, own balance, req_id
        anns = [
            (first + 4, STARTED_US + 4, TxnKind.TRANSFER, 2, 1, 8, 73, 0),
            (first + 3, STARTED_US + 3, TxnKind.WITHDRAW, 1, 0, 5, 65, 13),
            (first + 2, STARTED_US + 2, TxnKind.TRANSFER, 1, 2, 30, 70, 12),
            (first, STARTED_US + 0, TxnKind.DEPOSIT, 0, 1, 100, 100, 11),
        ]
        bobs = [
            (first + 5, STARTED_US + 5, TxnKind.TRANSFER, 2, 3, 1, 71, 24),
            (first + 4, STARTED_US + 4, TxnKind.TRANSFER, 2, 1, 8, 72, 23),
            (first + 2, STARTED_US + 2, TxnKind.TRANSFER, 1, 2, 30, 80, 0),
            (first + 1, STARTED_US + 1, TxnKind.DEPOSIT, 0, 2, 50, 50, 22),
        ]
        ledger = state_of(region, 1).ledger

        def history(user: int, before: int, limit: int) -> list[tuple[int, ...]]:
            found, older = ledger.history(user, before, limit)
            assert not older, "the ring has it all"
            return found

        assert history(1, 0, 256) == anns
        assert history(2, 0, 256) == bobs
        assert history(3, 0, 256) == [(first + 5, STARTED_US + 5, TxnKind.TRANSFER, 2, 3, 1, 1, 0)]
        assert history(4, 0, 256) == []
        for before in range(1, first + 8):
            for limit in range(6):
                expected = [item for item in anns if item[0] < before][:limit]
                assert history(1, before, limit) == expected
        assert history(1, 0, 2) == anns[:2]
        assert history(1, 2**64 - 1, 2) == anns[:2]


def test_history_passes_over_as_many_as_it_may() -> None:
    """All of the ring, where nobody else looks further; and where it stopped, it goes on."""
    with small_region(txn_ring=8192) as region:
        state = state_of(region)
        register(state, "ann", "bob")
        ann, bob = login(state, 1), login(state, 2)
        for session in (ann, bob, *[ann] * 6000):
            assert state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, 1, False, 1)[0] == DONE
        anns, bobs = 3, 4  # after the two registrations
        found, older = state.ledger.history(1, bobs, 5)
        assert ([item[0] for item in found], older) == ([anns], 0)
        found, older = state.ledger.history(1, bobs, 5, 4096)
        assert (found, older) == ([], state.log.head() - 4096)
        assert state.ledger.history(1, 0, 3, 3) == (state.ledger.history(1, 0, 3)[0], 0)


def test_history_goes_as_far_back_as_the_ring() -> None:
    with small_region(txn_ring=8) as region:
        state = state_of(region)
        register(state, "ann", "bob")
        ann, bob = login(state, 1), login(state, 2)
        for n in range(20):
            state.ledger.execute((ann, bob)[n % 2], TxnKind.DEPOSIT, 0, 1, n + 1, False, 1)
        head = state.log.head()
        shown = [item[0] for item in state.ledger.history(1, 0, 256)[0]]
        assert shown == [head - 1, head - 3, head - 5, head - 7]
        for n in range(20):
            state.ledger.execute(bob, TxnKind.DEPOSIT, 0, 1, n + 1, False, 1)
        assert state.ledger.history(1, 0, 256) == ([], head - 1)


def test_a_full_log_is_full_for_every_kind_until_the_journal_goes_on() -> None:
    with small_region(txn_ring=8) as region:
        state = state_of(region)
        register(state, "ann", "bob")
        ann = login(state, 1, 7)
        set_durable(region, 0)
        answers = [
            state.ledger.execute(ann, TxnKind.DEPOSIT, 0, 5, n, False, 1)[0] for n in range(1, 9)
        ]
        assert answers == [DONE] * 5 + [FULL] * 3, "two users and a client have the other slots"
        for durable in (1, 2, 3):
            set_durable(region, durable)
            req = 10 + 2 * durable
            assert state.ledger.execute(ann, TxnKind.TRANSFER, 2, 1, req, False, 1)[0] == DONE
            assert state.ledger.execute(ann, TxnKind.WITHDRAW, 0, 1, req + 1, False, 1)[0] == FULL
        assert state.ledger.balance(ann) == (True, 22, 11)
        check_quiet(region)


# ---- every store


@pytest.mark.parametrize("account_locks", [9, 1])
def test_every_store_of_a_transfer_is_made_under_both_locks(account_locks: int) -> None:
    """Its own intent's too: cleared after the unlock, it would be done again over what others did
    since. And until the accounts tell of a transaction, the intent does."""
    with small_region(account_locks=account_locks) as region:
        other = state_of(region, 1)
        seen = []
        looking = False

        def look() -> None:
            if looking:
                for user in (1, 2):
                    assert lock_value(other.locks.account(user)) == 0
                intent = word(region, "workers", 0, "intent")
                seen.append((intent, other.log.head(), [word(region, *place) for place in places]))

        writer = state_of(watched(region, look))
        register(writer, "ann", "bob")
        ann = login(writer, 1, 7)
        assert writer.ledger.execute(ann, TxnKind.DEPOSIT, 0, 100, 1, False, 1)[0] == DONE
        places = [("accounts", 1, "balance"), ("accounts", 2, "balance")]
        places += [("accounts", 1, "last_txn"), ("accounts", 2, "last_txn")]
        places += [("clients", ann.client_slot - 1, "newest")]
        head, looking = other.log.head(), True
        assert writer.ledger.execute(ann, TxnKind.TRANSFER, 2, 30, 2, False, 1)[0] == DONE
        before, after = [100, 0, head, 0, 1], [70, 30, head + 1, head + 1, 2]
        assert seen[0] == (0, head, before)
        assert seen[-1] == (0, head + 1, after)
        for intent, newest, shown in seen:
            if not intent:
                assert (newest, shown) in [(head, before), (head + 1, after)]
            elif newest == head:
                assert shown == before, "stored before it was committed"
        check_quiet(region)


# ---- a recovery in the middle


def spend(other: State, session: Session) -> None:
    assert other.ledger.execute(session, TxnKind.WITHDRAW, 0, 100, 1, False, 1)[0] == DONE


def fill(other: State, session: Session) -> None:
    del session
    rich = login(other, 2, 9)
    assert other.ledger.execute(rich, TxnKind.DEPOSIT, 0, FULL_ACCOUNT, 1, False, 1)[0] == DONE


def take_over(other: State, session: Session) -> None:
    del session
    login(other, 1, 7)


def nothing(other: State, session: Session) -> None:
    del other, session


@pytest.mark.parametrize("lock", ["payer's account", "payee's account", "log"])
@pytest.mark.parametrize("account_locks", [9, 1])
@pytest.mark.parametrize(
    ("happens", "what"),
    [(nothing, DONE), (spend, FUNDS), (fill, LIMIT), (take_over, SUPERSEDED)],
)
def test_a_transfer_that_a_recovery_interrupts_reads_everything_again(
    lock: str, account_locks: int, happens: Callable[[State, Session], None], what: int
) -> None:
    with small_region(account_locks=account_locks) as region:
        other = state_of(region, 1)
        register(other, "ann", "bob")

        def meanwhile() -> None:
            other.locks.release(taken)
            check_quiet(region)
            happens(other, also_ann)

        recovery = Recovery(region, 0, meanwhile)
        recovery.state.ledger = Ledger(
            region, recovery.state.locks, recovery.state.log, Outcomes(region), FULL_ACCOUNT
        )
        ann, also_ann = login(recovery.state, 1, 7), login(other, 1, 8)
        recovery.state.ledger.execute(ann, TxnKind.DEPOSIT, 0, 100, 1, False, 1)
        taken = {
            "payer's account": other.locks.account(1),
            "payee's account": other.locks.account(2),
            "log": other.locks.log,
        }[lock]
        other.locks.hold(taken)
        answer = recovery.state.ledger.execute(ann, TxnKind.TRANSFER, 2, 60, 2, False, 1)
        assert recovery.came
        assert answer[0] == what
        paid = 60 if what == DONE else 0
        assert word(region, "accounts", 2, "balance") == (FULL_ACCOUNT if happens is fill else paid)
        assert word(region, "accounts", 1, "balance") == (0 if happens is spend else 100 - paid)
        check_quiet(region)

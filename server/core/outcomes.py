"""The outcomes in a client's record: how a request that was executed before is recognised, and what
its repeat is answered with. All under the account lock of the client's user.

`Ledger.execute` looks and stores by itself, since a call costs it a tenth of its time.
"""

from typing import NamedTuple

from libproto.messages import OUTCOME_WINDOW
from server.core.errors import OutcomeUnknown
from server.core.session import Session
from server.region import machine
from server.region.layout import OUTCOME_FIELDS, OUTCOME_WORDS
from server.region.region import Region

_WINDOW, _OUTCOME_WORDS = OUTCOME_WINDOW, OUTCOME_WORDS


class Outcome(NamedTuple):
    """One of them; what each field is of which kind of request, layout.py says."""

    req_id: int
    txn_id: int = 0
    balance: int = 0
    target: int = 0
    amount: int = 0
    seq: int = 0
    digest: int = 0


assert Outcome._fields == OUTCOME_FIELDS, "stored by place"


class Outcomes:
    """The outcomes as one worker sees them."""

    def __init__(self, region: Region) -> None:
        clients = region.layout["clients"].offsets
        self._view, self._bytes = region.words, region.bytes
        self._words = machine.words_of(region.words)
        self._newest, self._first = clients["newest"], clients["outcomes"]

    def look(self, session: Session, req_id: int, flagged: int) -> Outcome | None:
        """The outcome of a request of a session; None: it has not been executed, and may be now.
        flagged: POSSIBLE_DUPLICATE; it matters only where the session has no client.
        OutcomeUnknown: nobody can tell."""
        words = self._words
        if not session.client:
            if flagged:
                raise OutcomeUnknown
            return None
        newest = words[session.client + self._newest]
        if newest >= _WINDOW and req_id <= newest - _WINDOW:
            raise OutcomeUnknown
        at = session.outcomes + req_id % _WINDOW * _OUTCOME_WORDS
        if words[at] == req_id:
            return Outcome._make(self._view[at : at + _OUTCOME_WORDS].tolist())
        if req_id < session.floor:
            raise OutcomeUnknown
        return None

    def store(
        self,
        client: int,
        req_id: int,
        txn_id: int,
        balance: int,
        target: int,
        amount: int,
        seq: int,
        digest: int,
    ) -> None:
        """What a repeat of the request is answered with. client: word of the client's record; the
        rest: the fields of an Outcome. Again without harm."""
        words = self._words
        at = client + self._first + req_id % _WINDOW * _OUTCOME_WORDS
        machine.store_7(
            words, self._bytes, at, req_id, txn_id, balance, target, amount, seq, digest
        )
        if req_id > words[client + self._newest]:
            words[client + self._newest] = req_id

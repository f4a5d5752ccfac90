"""Who is registered: a user's slot, found by id or through the name index, without a lock.

A slot is written once, payload before its commit word; the index is derived from the slots. A
registration is a record of the txn log, in the same order as the money.

A verifier that is changed is written beside the one that counts, and one word says which of the two
that is: who reads without a lock never gets half of each.
"""

import zlib
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from libproto.scram import Verifier
from libproto.texts import skeleton
from server.core.errors import Busy, NameTaken, TableFull
from server.core.log import TxnLog
from server.region.layout import WORD
from server.region.locks import InsideLock, Locks
from server.region.records import REGISTER, USER_SET, VERIFIER, RecordKind, UserState
from server.region.region import Region

_NAME_SIZE = 32
_OPENING: Final = Struct("=4Q")  # of a REGISTER record's payload, before the profile
_COPIES: Final = ("", "other_")  # of the names of a verifier's fields
_KEYS: Final = WORD + _NAME_SIZE + 16  # where they are in a profile, which begins with a word


class Users:
    """The users as one worker sees them."""

    def __init__(self, region: Region, locks: Locks, log: TxnLog) -> None:
        layout = region.layout
        self._region, self._words, self._bytes = region, region.words, region.bytes
        self._locks, self._log = locks, log
        users, self._sessions = layout["users"], layout["sessions"]
        self._base, self._stride = users.base, users.stride
        self._at = users.offsets
        assert list(self._at)[:6] == [
            "word", "name", "salt", "iterations", "stored_key", "server_key",
        ], "filled by place"  # fmt: skip
        self._closed = layout["accounts"].at(0, "closed")
        self._account_stride = layout["accounts"].stride
        self._capacity = layout.capacities.accounts
        self._count = region.registry.index("users")
        self._index = layout["name_index"].base
        self._index_mask = layout["name_index"].records - 1
        self._secret = region.header.index("salt_secret") * WORD
        self._log_id = region.header.index("log_id")

    def at(self, user: int, field: str) -> int:
        """The word of a user's field."""
        return self._base + user * self._stride + self._at[field]

    def exists(self, user: int) -> bool:
        return 0 < user <= self._capacity and bool(self._words[self.at(user, "word")])

    def _blob(self, user: int, field: str, size: int) -> bytes:
        at = self.at(user, field) * WORD
        return bytes(self._bytes[at : at + size])

    def _first_place(self, likeness: str) -> int:
        """Where in the index the search for names of that skeleton begins."""
        return zlib.crc32(likeness.encode()) & self._index_mask

    def _alike(self, likeness: str) -> Iterator[tuple[int, str]]:
        """Users whose names have that skeleton, with their names. A directory that was written
        before names were compared so may have several."""
        words, place = self._words, self._first_place(likeness)
        while user := words[self._index + place]:
            name = self.name(user)
            if skeleton(name) == likeness:
                yield user, name
            place = (place + 1) & self._index_mask

    def find(self, name: str) -> int:
        """The user id of a valid name, or 0."""
        return next((user for user, its in self._alike(skeleton(name)) if its == name), 0)

    def name(self, user: int) -> str:
        """The name of a user who exists."""
        return self._blob(user, "name", _NAME_SIZE).rstrip(b"\0").decode()

    def verifier(self, user: int) -> tuple[Verifier, int]:
        """The verifier that counts, and its version: another one has another."""
        words, at = self._words, self.at(user, "version")
        while True:
            version = words[at]
            copy = _COPIES[version & 1]
            found = Verifier(
                salt=self._blob(user, copy + "salt", 16),
                iterations=words[self.at(user, copy + "iterations")],
                stored_key=self._blob(user, copy + "stored_key", 32),
                server_key=self._blob(user, copy + "server_key", 32),
            )
            if words[at] == version:
                return found, version

    def iterations(self, most: int) -> list[int]:
        """Those of the verifiers of users, evenly picked where there are more than `most`."""
        words, count = self._words, self._words[self._count]
        found = []
        for user in range(1, count + 1, -(-count // most) or 1):
            if self.exists(user):
                copy = _COPIES[self.version(user) & 1]
                found.append(words[self.at(user, copy + "iterations")])
        return found

    def version(self, user: int) -> int:
        """Of the verifier that counts."""
        return self._words[self.at(user, "version")]

    def role(self, user: int) -> int:
        """UserRole."""
        return self._words[self.at(user, "role")]

    def state(self, user: int) -> int:
        """UserState."""
        return self._words[self.at(user, "state")]

    def is_there(self, user: int) -> bool:
        """Exists, and was not deleted."""
        return self.exists(user) and self.state(user) != UserState.DELETED

    def salt_secret(self) -> bytes:
        """Key of the salts that are told for unknown names: stable while the state lives."""
        return bytes(self._bytes[self._secret : self._secret + 32])

    def log_id(self) -> int:
        """Identity of the log, not 0: the same as long as the state lives."""
        return self._words[self._log_id]

    def presence(self, user: int, now: int) -> tuple[bool, int]:
        """Online? and last_seen: now where online. Microseconds since the Unix epoch."""
        words = self._words
        session = words[self.at(user, "first_session")]
        for _ in range(self._sessions.records):  # a list that changes meanwhile still ends
            if not session:
                break
            if not words[self._sessions.at(session - 1, "mark")]:
                return True, now
            session = words[self._sessions.at(session - 1, "next")]
        return False, words[self.at(user, "last_seen")]

    def register(self, name: str, verifier: Verifier, now: int) -> int:
        """A new user's id. NameTaken: also where the name looks like another's. Busy."""
        registry = self._locks.registry
        while True:
            self._locks.hold(registry)
            try:
                user = self._register(name, verifier, now)
            except (NameTaken, Busy):
                self._locks.release(registry)
                raise
            except Exception as error:
                raise InsideLock("register") from error
            if user:
                self._locks.release(registry)
                return user

    def _register(self, name: str, verifier: Verifier, now: int) -> int:
        """Under the registry lock, which is still held afterwards; 0: a recovery came between."""
        for _, taken in self._alike(skeleton(name)):
            raise NameTaken(same=taken == name)
        user = self._words[self._count] + 1
        if user > self._capacity:
            raise TableFull("accounts")
        payload = REGISTER.pack(
            RecordKind.REGISTER, now, 0, user, verifier.iterations, name.encode(),
            verifier.salt, verifier.stored_key, verifier.server_key,
        )  # fmt: skip
        txn = self._log.append(payload, 0, (self._locks.registry,))
        if txn == TxnLog.AGAIN:
            return 0
        if txn == TxnLog.FULL:
            raise self._log.refusal()
        self.apply(payload)
        self._log.done()
        return user

    def apply(self, payload: bytes) -> None:
        """Store what a REGISTER record says (all its words but the first). Idempotent."""
        words = self._words
        _, time, _, user, iterations, name, salt, stored, server = REGISTER.unpack(payload)
        for field, blob in (
            ("name", name), ("salt", salt), ("stored_key", stored), ("server_key", server)
        ):  # fmt: skip
            at = self.at(user, field) * WORD
            self._bytes[at : at + len(blob)] = blob
        words[self.at(user, "iterations")] = iterations
        words[self.at(user, "last_seen")] = time
        words[self.at(user, "word")] = user  # the commit word
        place = self._first_place(skeleton(self.name(user)))
        while words[self._index + place] not in (0, user):
            place = (place + 1) & self._index_mask
        words[self._index + place] = user
        words[self._count] = user

    def apply_verifier(self, txn: int, payload: bytes) -> None:
        """Store what a VERIFIER record says (all its words but the first). Again without harm."""
        words = self._words
        user, iterations, _, salt, stored, server = VERIFIER.unpack(payload)[3:]
        version = self.at(user, "version")
        if words[version] >> 1 == txn:
            return
        which = ~words[version] & 1  # nobody reads this one
        copy = _COPIES[which]
        for field, blob in (("salt", salt), ("stored_key", stored), ("server_key", server)):
            at = self.at(user, copy + field) * WORD
            self._bytes[at : at + len(blob)] = blob
        words[self.at(user, copy + "iterations")] = iterations
        words[version] = txn << 1 | which

    def apply_set(self, payload: bytes) -> None:
        """Store what a USER_SET record says (all its words but the first). Again without harm."""
        _, _, _, user, role, state = USER_SET.unpack(payload)
        self.store_set(user, role, state)

    def store_set(self, user: int, role: int, state: int) -> None:
        """A user's role and state."""
        words = self._words
        words[self._closed + user * self._account_stride] = int(state == UserState.DELETED)
        words[self.at(user, "role")] = role
        words[self.at(user, "state")] = state

    def fill(self, profiles: Sequence[bytes]) -> None:
        """Users 1, 2, ..., each as a REGISTER record says it from `iterations` on. For a new
        region, which nobody looks at: there may be a million."""
        blob, size = self._bytes, REGISTER.size - _OPENING.size
        at, stride = self.at(1, "word") * WORD, self._stride * WORD
        for user, profile in enumerate(profiles, 1):
            named, keys = profile[WORD:_KEYS], profile[_KEYS:]
            # Its words in the order of the region.
            words = user.to_bytes(WORD, "little") + named + profile[:WORD] + keys
            blob[at : at + WORD + size] = words
            at += stride
        self.rebuild()

    def rebuild(self) -> None:
        """The name index and the count, anew from the slots. For a repair, while all others are
        paused; and for a new region."""
        index, mask, count = [0] * (self._index_mask + 1), self._index_mask, 0
        blob, stride = self._bytes, self._stride * WORD
        at = self.at(0, "name") * WORD
        for user in self._region.column("users", "word"):
            if user:
                start = at + user * stride
                name = bytes(blob[start : start + _NAME_SIZE]).rstrip(b"\0").decode()
                place = self._first_place(skeleton(name))
                while index[place]:
                    place = (place + 1) & mask
                index[place] = count = user
        self._region.set_column("name_index", "user", index)
        self._words[self._count] = count

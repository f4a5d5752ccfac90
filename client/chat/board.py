"""The board of a room as it is looked at: its entries, what of them is shown, and the one under the
cursor. Pure, so that it is tested without a terminal.
"""

from dataclasses import dataclass, field

from client.core.room_events import OfferAdded, OfferRemoved, OfferTaken, RoomEvent
from libproto.messages import BoardEntry, ChatBroadcast


@dataclass(eq=False, slots=True)
class Board:
    """The entries of a board, by their numbers, which are never used twice."""

    wanted: str = ""
    """Only entries with this text are shown, whatever the case."""
    cursor: int = 0
    """The number of the entry under the cursor; 0: there is none."""
    takers: dict[int, str] = field(default_factory=dict)
    """Who has taken an entry, as far as it was seen here."""
    _entries: dict[int, BoardEntry] = field(default_factory=dict)
    _gone: set[int] = field(default_factory=set)
    _new: dict[int, BoardEntry] = field(default_factory=dict)  # put up since `reading`

    def reading(self) -> None:
        """It is about to be read from the server, while events may come."""
        self._new = {}

    def read(self, found: list[BoardEntry]) -> None:
        """These were on it, since `reading`; what events said since then is newer."""
        entries = {**{entry.entry_id: entry for entry in found}, **self._new}
        for entry_id in self._gone:
            entries.pop(entry_id, None)
        self._entries = entries
        self._settle()

    def follow(self, said: RoomEvent | None, event: ChatBroadcast) -> bool:
        """Do what an event of the room says; whether it is about the board."""
        match said:
            case OfferAdded(entry_id, price, text):
                entry = BoardEntry(
                    entry_id, event.time, event.from_user, event.from_name, price, text
                )
                if entry_id not in self._gone:
                    self._entries[entry_id] = self._new[entry_id] = entry
            case OfferRemoved(entry_id):
                self.remove(entry_id)
            case OfferTaken(entry_id):
                self.takers[entry_id] = event.from_name
                self.remove(entry_id)
            case _:
                return False
        self._settle()
        return True

    def remove(self, entry_id: int) -> None:
        """An entry is not there any more; the cursor goes to the next one."""
        place = self._place()
        self._gone.add(entry_id)
        self._entries.pop(entry_id, None)
        self._settle(place)

    def find(self, wanted: str) -> None:
        """Show only what has this text; empty: all."""
        self.wanted = wanted
        self._settle()

    def shown(self) -> list[BoardEntry]:
        """What is shown, in its order."""
        wanted = self.wanted.casefold()
        found = (entry for entry in self._entries.values() if wanted in entry.text.casefold())
        return sorted(found, key=lambda entry: entry.entry_id)

    @property
    def selected(self) -> BoardEntry | None:
        """The entry under the cursor."""
        return self._entries.get(self.cursor)

    def move(self, step: int) -> None:
        """Move the cursor down by so many entries, as far as there are some; negative: up."""
        shown = self.shown()
        if shown:
            place = max(0, min(self._place() + step, len(shown) - 1))
            self.cursor = shown[place].entry_id

    def __len__(self) -> int:
        return len(self._entries)

    def _place(self) -> int:
        numbers = [entry.entry_id for entry in self.shown()]
        return numbers.index(self.cursor) if self.cursor in numbers else 0

    def _settle(self, place: int = 0) -> None:
        """Put the cursor on an entry that is shown, where it is on none."""
        numbers = [entry.entry_id for entry in self.shown()]
        if self.cursor not in numbers:
            self.cursor = numbers[min(place, len(numbers) - 1)] if numbers else 0

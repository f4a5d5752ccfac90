"""Where each push goes: to every reader of `events`, or to the one inbox of the other ways.

As long as there is a reader, the pushes are the readers' alone, but for a program that has them
called back: it gets them too. The first reader begins with what waits in the inbox. A reader that
the program has forgotten is noticed, as it is held by weak references only.

All of this is called by one thread, the loop's.
"""

import weakref

from client.core.inbox import Inbox, Notice
from client.core.pushes import Event, Push


class Readers:
    """The inbox of one `connect`, and the queues of its readers."""

    def __init__(self, inbox: Inbox, *, called_back: bool) -> None:
        """called_back: the pushes of the inbox go to the program's `on_push`."""
        self._inbox = inbox
        self._called_back = called_back
        self._readers: list[weakref.ref[Inbox]] = []
        self._ended = False

    def add(self, queue: Inbox) -> None:
        """A reader more, which takes what is put into its queue."""
        if not self._called_back and not self._living():
            for item in self._inbox.emptied():
                assert not isinstance(item, Notice), "these go to what is called back"
                queue.put(item)
        if self._ended:
            queue.end()
        else:
            self._readers.append(weakref.ref(queue))

    def remove(self, queue: Inbox) -> None:
        """A reader less. What waits in its queue is its own."""
        queue.end()
        self._readers = [each for each in self._readers if each() not in (None, queue)]

    def put(self, push: Push) -> None:
        """A push has come. TooManyRooms as of `Inbox.put`."""
        readers = self._living()
        for queue in readers:
            queue.put(push)
        if self._called_back or not readers:
            self._inbox.put(push)

    def tell(self, event: Event) -> None:
        """Something that is only said to readers."""
        for queue in self._living():
            queue.put(event)

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._inbox.end()
        for queue in self._living():
            queue.end()
        self._readers.clear()

    @property
    def complaint(self) -> str:
        """What a call that was not answered in time says of pushes that nobody takes."""
        queues = self._living() or [self._inbox]
        if not any(queue.overflowing for queue in queues):
            return ""
        dropped = sum(queue.dropped for queue in queues)
        return f"; {dropped} pushes were dropped, as the program takes none"

    def _living(self) -> list[Inbox]:
        """The queues of the readers that the program still holds."""
        if not self._readers:
            return []
        found = [queue for each in self._readers if (queue := each()) is not None]
        if len(found) < len(self._readers):
            self._readers = [each for each in self._readers if each() is not None]
        return found

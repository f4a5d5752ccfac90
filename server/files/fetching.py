"""Links that workers have asked for: between the desk and the origin."""

from typing import Final

import liblog
from server.config import Settings
from server.files.desk import Desk, Loan
from server.files.errors import Busy, NotThere
from server.files.store import Store
from server.region.region import Region

log = liblog.get("files")


class NotFetched(NotThere):
    """Whatever is wrong at the origin: the log says what, and nobody else is told."""

    def __init__(self) -> None:
        super().__init__("the link cannot be fetched")


def hosts_of(setting: str) -> list[str]:
    """What `link_hosts` names."""
    return setting.replace(",", " ").split()


class Links:
    """What is being fetched, and for whom."""

    def __init__(self, region: Region, store: Store, desk: Desk, settings: Settings) -> None:
        """BadHost: a host of the setting is not one."""
        # Here, as no other process needs libcurl.
        from server.files.addresses import Hosts
        from server.files.fetch import Times
        from server.files.origin import Origin

        self._desk, self._counts = desk, region.files
        self._origin: Final = Origin(
            store, Hosts(hosts_of(settings.link_hosts)), Times(lifetime=settings.link_ttl)
        )
        self._loans: dict[int, Loan] = {}
        self._number = 0

    def fileno(self) -> int:
        """It can be polled."""
        return self._origin.fileno()

    def wait_s(self) -> float:
        """Seconds until `turn` is to be called."""
        return self._origin.wait_s()

    def fetch(self, loan: Loan, place: int, url: str) -> None:
        """Begin one; the segment is handed back when that is over. FilesError."""
        self._number += 1
        self._origin.start(self._number, loan.message.user, place, url)
        self._loans[self._number] = loan
        self._counts.fetching = len(self._loans)

    def forget(self, url: str, sha256: bytes) -> None:
        """Fetch it anew the next time: a URL, or, where that is empty, all that are known to have
        these contents."""
        known = self._origin.invalidate(url) if url else self._origin.invalidate_contents(sha256)
        log.info("links_invalidated", url=url, known=int(known))

    def turn(self) -> None:
        """Go on with all of them, and answer those that have ended."""
        from server.files.origin import Fetched

        for done in self._origin.work():
            loan = self._loans.pop(done.number)
            self._counts.fetching = len(self._loans)
            if isinstance(done, Fetched):
                self._counts.fetched += 1
                if self._desk.is_live(loan):
                    self._desk.tells(loan, done.file, done.file.size)
                continue
            self._counts.unfetched += 1
            log.warning("link_not_fetched", url=done.url, reason=str(done.error))
            if self._desk.is_live(loan):
                busy = isinstance(done.error, Busy)
                self._desk.fails(loan, done.error if busy else NotFetched())

    def close(self) -> None:
        self._origin.close()

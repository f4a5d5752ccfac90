"""Fetching links into the store, many at once, over libcurl, without waiting for any of them.

It stands in the loop of the files process: that polls it for reading, and calls `work` when it is
ready and after `wait_s` seconds. Bytes go to the store as they arrive, so a fetch takes the same
memory whatever comes. Names are looked up in threads, which nothing else is done in.
"""

import select
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

import pycurl

from libnet.wakeup import Wakeup
from server.files.addresses import Address, Hosts, is_outside
from server.files.errors import Busy, FilesError, NotThere
from server.files.fetch import GET, HEAD, Fetch, Times, begin_body, check_answer, request
from server.files.links import BadLink, Link, joined, lifetime_of, link_of, media_type_of, name_of
from server.files.records import File
from server.files.store import Store

AT_ONCE: Final = 16
WAITING_MAX: Final = 256
REDIRECTS_MAX: Final = 3
TRIES: Final = 3  # of each request
_REMEMBERED_MAX: Final = 1024  # links
_RESOLVERS: Final = 4  # threads
_OK: Final = 200
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NO_HEAD: Final = frozenset({405, 501})  # the origin knows no HEAD: GET will tell
_SERVER_ERRORS: Final = 500
# What may go better the next time. A partial file is a connection that was closed in the middle.
_AGAIN: Final = frozenset(
    {
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
    }
)


class TooManyFetches(Busy):
    def __init__(self) -> None:
        super().__init__("too many links are being fetched")


class Fetched(NamedTuple):
    number: int
    file: File  # stored, and not published
    remembered: bool  # it was fetched before


class Failed(NamedTuple):
    """error: `NotThere`, whatever is wrong at the origin; `Busy` where it is not the origin."""

    number: int
    url: str
    error: FilesError


class _Remembered(NamedTuple):
    sha256: bytes
    media_type: str
    name: str
    until: float


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for *_, address in found]


def outside(found: list[str]) -> list[Address]:
    """Those of some addresses that may be connected to."""
    return [address for address in map(ip_address, found) if is_outside(address)]


class Origin:
    """Each fetch has a number of its caller's, and ends in exactly one `Fetched` or `Failed`, or by
    `cancel`."""

    def __init__(
        self,
        store: Store,
        hosts: Hosts,
        times: Times,
        *,
        resolve: Callable[[str, int], list[str]] = resolve,
    ) -> None:
        self._store, self._hosts, self._times, self._resolve_name = store, hosts, times, resolve
        self._fetches: dict[int, Fetch] = {}
        self._waiting: deque[Fetch] = deque()
        self._again: list[tuple[float, Fetch]] = []  # when it is tried again
        self._done: list[Fetched | Failed] = []
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._resolved: deque[tuple[Fetch, Link, list[str] | OSError]] = deque()
        self._woken = Wakeup()
        self._threads = ThreadPoolExecutor(_RESOLVERS, "resolver")
        self._epoll = select.epoll()
        self._epoll.register(self._woken, select.EPOLLIN)
        self._timer: float | None = None  # when libcurl wants to be called
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    # ---- for the loop

    def fileno(self) -> int:
        return self._epoll.fileno()

    def wait_s(self) -> float:
        """Seconds until `work` is to be called, if nothing is ready before."""
        if self._done:
            return 0.0
        dues = [due for due, _ in self._again]
        dues += [self._due(fetch) for fetch in self._fetches.values()]
        if self._timer is not None:
            dues.append(self._timer)
        return max(0.0, min(dues) - time.monotonic()) if dues else 3600.0

    def _due(self, fetch: Fetch) -> float:
        """When it has waited too long."""
        if fetch.curl is not None and not fetch.status:
            return min(fetch.until, fetch.began + self._times.connect + self._times.first_byte)
        return fetch.until

    def work(self) -> list[Fetched | Failed]:
        """Do what can be done now; those that have ended."""
        for fd, event in self._epoll.poll(0):
            if fd == self._woken.fileno():
                self._woken.clear()
                continue
            mask = (pycurl.CSELECT_IN if event & ~select.EPOLLOUT else 0) | (
                pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
            )
            self._multi.socket_action(fd, mask)
        now = time.monotonic()
        if self._timer is not None and now >= self._timer:
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._take_finished()
        while self._resolved:
            self._take_resolved(*self._resolved.popleft())
        for due, fetch in [each for each in self._again if each[0] <= now]:
            self._again.remove((due, fetch))
            self._connect(fetch)
        for fetch in [each for each in self._fetches.values() if now >= self._due(each)]:
            self._fail(fetch, "it takes too long")
        while self._waiting and len(self._fetches) < AT_ONCE:
            self._begin(self._waiting.popleft())
        done, self._done = self._done, []
        return done

    def _watch(self, event: int, fd: int, _multi: Any, _data: Any) -> None:
        if event == pycurl.POLL_REMOVE:
            with suppress(OSError, ValueError):  # closed already
                self._epoll.unregister(fd)
            return
        mask = (select.EPOLLIN if event & pycurl.POLL_IN else 0) | (
            select.EPOLLOUT if event & pycurl.POLL_OUT else 0
        )
        try:
            self._epoll.modify(fd, mask)
        except FileNotFoundError:
            self._epoll.register(fd, mask)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def close(self) -> None:
        """End all that is under way; nothing of it stays in the store."""
        for number in [*self._fetches, *(each.number for each in self._waiting)]:
            self.cancel(number)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._multi.close()
        self._epoll.close()
        self._woken.close()

    # ---- fetches

    def start(self, number: int, user: int, room: int, url: str) -> None:
        """Begin one. TooManyFetches."""
        if len(self._waiting) >= WAITING_MAX:
            raise TooManyFetches
        try:
            link = link_of(url)
        except BadLink as error:
            self._done.append(Failed(number, url, NotThere(str(error))))
            return
        until = time.monotonic() + self._times.whole
        self._waiting.append(Fetch(number, user, room, url, link, until))
        while self._waiting and len(self._fetches) < AT_ONCE:
            self._begin(self._waiting.popleft())

    def cancel(self, number: int) -> None:
        """Nobody wants it any more; nothing where it has ended."""
        for waiting in [each for each in self._waiting if each.number == number]:
            self._waiting.remove(waiting)
        if fetch := self._fetches.get(number):
            self._end(fetch)

    def invalidate(self, url: str) -> bool:
        """Forget what a link was; whether it was known."""
        return self._remembered.pop(url, None) is not None

    def invalidate_contents(self, sha256: bytes) -> int:
        """Forget all links that were these contents: how many."""
        gone = [url for url, known in self._remembered.items() if known.sha256 == sha256]
        for url in gone:
            del self._remembered[url]
        return len(gone)

    def _begin(self, fetch: Fetch) -> None:
        self._fetches[fetch.number] = fetch
        if not self._take_remembered(fetch):
            self._connect(fetch)

    def _take_remembered(self, fetch: Fetch) -> bool:
        known = self._remembered.get(fetch.url)
        # What the operator allows may have changed; where it led is not looked at again.
        if known is None or self._hosts.find(fetch.link.host, fetch.link.port) is None:
            return False
        if time.monotonic() >= known.until:
            del self._remembered[fetch.url]
            return False
        try:
            file = self._store.again(
                fetch.user, fetch.room, known.sha256, known.media_type, known.name
            )
        except NotThere:
            del self._remembered[fetch.url]
            return False
        except FilesError as error:
            self._fail(fetch, error)
            return True
        self._end(fetch)
        self._done.append(Fetched(fetch.number, file, remembered=True))
        return True

    # ---- one request

    def _connect(self, fetch: Fetch) -> None:
        """Check the host, and find its addresses."""
        link = fetch.link
        allowed = self._hosts.find(link.host, link.port)
        if allowed is None:
            self._fail(fetch, f"the host {link.host}, port {link.port}, is not allowed")
        elif allowed.address is not None:
            self._request(fetch, [allowed.address])
        else:
            try:
                self._request(fetch, outside([str(ip_address(link.host))]))
            except ValueError:
                self._threads.submit(self._look_up, fetch, link)

    def _look_up(self, fetch: Fetch, link: Link) -> None:
        """In a thread of its own."""
        found: list[str] | OSError
        try:
            found = self._resolve_name(link.host, link.port)
        except (OSError, UnicodeError) as error:
            found = error if isinstance(error, OSError) else OSError(str(error))
        self._resolved.append((fetch, link, found))
        with suppress(OSError, ValueError):  # it may have been closed meanwhile
            self._woken.set()

    def _take_resolved(self, fetch: Fetch, link: Link, found: list[str] | OSError) -> None:
        if self._fetches.get(fetch.number) is not fetch:
            return
        if isinstance(found, OSError):
            self._retry(fetch, f"the host {link.host} is not found")
        else:
            self._request(fetch, outside(found))

    def _request(self, fetch: Fetch, addresses: list[Address]) -> None:
        if not addresses:
            self._fail(fetch, f"the host {fetch.link.host} has no address outside")
            return
        now = time.monotonic()
        address = addresses[fetch.tries % len(addresses)]
        fetch.began, left = now, max(0.001, fetch.until - now)
        fetch.curl = request(fetch, address, self._store, self._times, left)
        self._multi.add_handle(fetch.curl)

    def _take_finished(self) -> None:
        left = 1
        while left:
            left, good, bad = self._multi.info_read()
            for curl in good:
                fetch = self._finished(curl)
                self._step(fetch, self._after, fetch)
            for curl, code, text in bad:
                fetch = self._finished(curl)
                self._step(fetch, self._after_error, fetch, code, text)

    def _finished(self, curl: Any) -> Fetch:
        fetch: Fetch = curl.fetch
        self._let_go(fetch)
        return fetch

    def _let_go(self, fetch: Fetch) -> None:
        if (curl := fetch.curl) is not None:
            fetch.curl = curl.fetch = None
            self._multi.remove_handle(curl)
            curl.close()

    def _step(self, fetch: Fetch, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except (FilesError, BadLink) as error:
            self._fail(fetch, error)

    def _after(self, fetch: Fetch) -> None:
        """A whole answer. BadLink, FilesError."""
        status = fetch.status
        if status in _REDIRECTS and "location" in fetch.headers:
            self._abandon(fetch)
            fetch.redirects += 1
            if fetch.redirects > REDIRECTS_MAX:
                raise BadLink(f"it is redirected more than {REDIRECTS_MAX} times")
            fetch.link, fetch.tries = joined(fetch.link, fetch.headers["location"]), 0
            self._connect(fetch)
        elif status >= _SERVER_ERRORS and status not in _NO_HEAD:
            self._retry(fetch, f"the answer to {fetch.name} is {status}")
        elif fetch.method == HEAD and (status == _OK or status in _NO_HEAD):
            if status == _OK:
                check_answer(fetch, self._store)
            fetch.method, fetch.tries = GET, 0
            self._connect(fetch)
        elif status != _OK:
            raise BadLink(f"the answer to {fetch.name} is {status}")
        else:
            begin_body(fetch, self._store)
            self._keep(fetch)

    def _after_error(self, fetch: Fetch, code: int, text: str) -> None:
        """BadLink, FilesError."""
        if fetch.wrong is not None:
            raise fetch.wrong
        if code == pycurl.E_WRITE_ERROR:  # the body of an answer that nobody wants
            self._after(fetch)
        elif code in _AGAIN:
            self._retry(fetch, f"{fetch.name}: {text}")
        else:
            raise BadLink(f"{fetch.name}: {text}")

    def _retry(self, fetch: Fetch, why: str) -> None:
        self._abandon(fetch)
        fetch.tries += 1
        wait = self._times.back_off * 2 ** (fetch.tries - 1)
        if fetch.tries >= TRIES:
            self._fail(fetch, f"{why}, {TRIES} times")
        else:
            self._again.append((time.monotonic() + wait, fetch))

    # ---- ends

    def _keep(self, fetch: Fetch) -> None:
        """FilesError."""
        incoming, fetch.incoming = fetch.incoming, 0
        media_type, name = media_type_of(fetch.headers["content-type"]), name_of(fetch.link)
        file = self._store.keep(incoming, fetch.room, media_type, name)
        lives = lifetime_of(fetch.headers.get("cache-control", ""), self._times.lifetime)
        if lives:
            until = time.monotonic() + lives
            self._remembered[fetch.url] = _Remembered(file.sha256, media_type, name, until)
            self._remembered.move_to_end(fetch.url)
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        self._end(fetch)
        self._done.append(Fetched(fetch.number, file, remembered=False))

    def _fail(self, fetch: Fetch, why: str | FilesError | BadLink) -> None:
        self._end(fetch)
        error = why if isinstance(why, Busy) else NotThere(str(why))
        self._done.append(Failed(fetch.number, fetch.url, error))

    def _end(self, fetch: Fetch) -> None:
        self._fetches.pop(fetch.number, None)
        self._again = [each for each in self._again if each[1] is not fetch]
        self._let_go(fetch)
        self._abandon(fetch)

    def _abandon(self, fetch: Fetch) -> None:
        if fetch.incoming:
            self._store.abandon(fetch.incoming)
            fetch.incoming = 0

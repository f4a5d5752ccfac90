"""One fetch of a link, as far as it has come, and the request it makes of libcurl.

A fetch is a HEAD and a GET, each after a check of host and address, and each over a connection of
its own to the very address that was checked. Redirects are not followed by libcurl: where one leads
is checked like the link itself.
"""

import math
import ssl
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from socket import socket
from typing import Any, Final

import pycurl

from libproto import __version__
from server.files.addresses import Address
from server.files.errors import FilesError, TooLarge
from server.files.links import BadLink, Link, length_of, media_type_of
from server.files.store import Store

HEAD: Final = "HEAD"
GET: Final = "GET"
_HEADERS_MAX: Final = 64 << 10  # bytes of the headers of one answer
_OK: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds."""

    connect: float = 5.0
    first_byte: float = 10.0  # after the connection; and the longest pause after that
    whole: float = 60.0  # with redirects and retries
    back_off: float = 0.5  # before the first retry; each later one waits twice as long
    lifetime: float = 300.0  # of what was fetched, where its origin does not say


@dataclass(eq=False, slots=True)
class Fetch:
    number: int
    user: int
    room: int
    url: str  # as it was asked for
    link: Link  # where it is now
    until: float
    method: str = HEAD
    tries: int = 0
    redirects: int = 0
    addresses: list[Address] = field(default_factory=list)
    curl: Any = None
    # Of the request under way.
    began: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    header_bytes: int = 0
    head_length: int | None = None
    incoming: int = 0  # its number in the store
    wrong: FilesError | BadLink | None = None

    @property
    def name(self) -> str:
        return f"{self.method} of {self.link.url}"


def request(fetch: Fetch, address: Address, store: Store, times: Times, left: float) -> Any:
    """A handle of libcurl for the next request of a fetch. left: seconds until it is to be over."""
    fetch.status, fetch.headers, fetch.header_bytes, fetch.wrong = 0, {}, 0, None
    curl = pycurl.Curl()
    curl.fetch = fetch
    options = {
        pycurl.URL: fetch.link.url,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.NOBODY: int(fetch.method == HEAD),
        pycurl.PROXY: "",
        pycurl.NOPROXY: "*",
        pycurl.NOSIGNAL: 1,
        pycurl.FRESH_CONNECT: 1,
        pycurl.FORBID_REUSE: 1,
        pycurl.HTTPHEADER: ["Accept-Encoding: identity", "Accept: */*"],
        pycurl.USERAGENT: f"tradechat/{__version__}",
        pycurl.CONNECTTIMEOUT_MS: max(1, round(min(times.connect, left) * 1000)),
        pycurl.TIMEOUT_MS: max(1, round(left * 1000)),
        pycurl.LOW_SPEED_LIMIT: 1,
        pycurl.LOW_SPEED_TIME: max(1, math.ceil(times.first_byte)),
        pycurl.CONNECT_TO: [f"::{_bracketed(address)}:{fetch.link.port}"],
        pycurl.OPENSOCKETFUNCTION: lambda _, to: _open(to, address, fetch.link.port),
        pycurl.HEADERFUNCTION: lambda line: _take_header(fetch, line),
        pycurl.WRITEFUNCTION: lambda data: _take(fetch, store, data),
    }
    if fetch.link.scheme == "https" and (authorities := _authorities()):
        options[pycurl.CAINFO] = authorities
    for option, value in options.items():
        curl.setopt(option, value)
    return curl


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


@cache
def _authorities() -> str:
    """Those of the system: libcurl of a wheel looks for them where it was built."""
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if path and Path(path).is_file():
            return path
    return ""


class _Lent(socket):
    """One that libcurl makes a copy of, and that is closed after it."""

    def __del__(self) -> None:
        self.close()


def _open(to: Any, address: Address, port: int) -> Any:
    """A socket for the address that was checked, and for no other."""
    if ip_address(to.addr[0]) != address or to.addr[1] != port:
        return pycurl.SOCKET_BAD
    return _Lent(to.family, to.socktype, to.protocol)


def _take_header(fetch: Fetch, line: bytes) -> int | None:
    """A line of the headers; another number than its length ends the request."""
    fetch.header_bytes += len(line)
    if fetch.header_bytes > _HEADERS_MAX:
        fetch.wrong = BadLink(f"its headers have more than {_HEADERS_MAX} bytes")
        return -1
    text = line.decode("latin-1").strip()
    if text.startswith("HTTP/"):
        fields = text.split(" ", 2)
        fetch.status = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
        fetch.headers.clear()
    elif ":" in text:
        name, _, value = text.partition(":")
        fetch.headers.setdefault(name.strip().lower(), value.strip())
    return None


def check_answer(fetch: Fetch, store: Store) -> None:
    """What the headers of a good answer say of the file. BadLink, TooLarge."""
    length = length_of(fetch.headers.get("content-length"))
    if length is not None and length > store.limits.file_bytes:
        raise TooLarge(length, store.limits.file_bytes)
    media_type_of(fetch.headers.get("content-type", ""))
    if fetch.headers.get("content-encoding", "identity").lower() != "identity":
        raise BadLink("it comes encoded, which was not asked for")
    if fetch.method == HEAD:
        fetch.head_length = length
    elif None not in (length, fetch.head_length) and length != fetch.head_length:
        raise BadLink(f"HEAD says {fetch.head_length} bytes, and GET {length}")


def begin_body(fetch: Fetch, store: Store) -> None:
    """Before the first byte of the answer to a GET. BadLink, FilesError."""
    if not fetch.incoming:
        check_answer(fetch, store)
        fetch.incoming = store.receive(fetch.user)


def _take(fetch: Fetch, store: Store, data: bytes) -> int | None:
    """Bytes of the body; likewise."""
    if fetch.method != GET or fetch.status != _OK:
        return -1  # nobody wants it
    try:
        begin_body(fetch, store)
        store.append(fetch.incoming, data)
    except (FilesError, BadLink) as error:
        fetch.wrong = error
        return -1
    return None

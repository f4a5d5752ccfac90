"""What a link says, and what the headers of an answer say of a file: text only."""

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from libproto.messages import FILE_NAME_MAX
from libproto.texts import is_media_type, may_be_shown, may_name_a_file
from server.files.addresses import BadHost, host_of

_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"[^\x00-\x20\x7f-\x9f\\]+")
_SAFE: Final = "/%!$&'()*+,;=:@-._~?"
_NAME: Final = "link"


class BadLink(Exception):
    """A link that is not followed; the text says why."""


class Link(NamedTuple):
    scheme: str
    host: str  # as it is compared: host_of
    port: int
    path: str  # and query

    @property
    def url(self) -> str:
        """Written so that nobody reads it in another way."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def link_of(url: str) -> Link:
    """BadLink."""
    if not _URL.fullmatch(url):
        raise BadLink("the link has a blank, a control character or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadLink("the link cannot be read") from None
    if parts.scheme not in _PORTS:
        raise BadLink("the link is neither http nor https")
    if "@" in parts.netloc:
        raise BadLink("the link has a user name in it")
    host = parts.netloc.removesuffix(f":{port}") if port is not None else parts.netloc
    try:
        host = host_of(host.removesuffix(":"))
    except BadHost:
        raise BadLink("the link names no host") from None
    path = quote(parts.path or "/", safe=_SAFE)
    query = "?" + quote(parts.query, safe=_SAFE) if parts.query else ""
    return Link(parts.scheme, host, port or _PORTS[parts.scheme], path + query)


def joined(link: Link, location: str) -> Link:
    """Where a redirect leads. BadLink."""
    try:
        return link_of(urljoin(link.url, location.strip()))
    except ValueError:
        raise BadLink("the redirect cannot be read") from None


def name_of(link: Link) -> str:
    """A name for the file of a link: the last part of its path, as far as a name may have it."""
    last = unquote(link.path.partition("?")[0].rpartition("/")[2], errors="replace")
    name = "".join(c for c in last if c.isprintable() and c != "/").strip().lstrip(".")
    if not may_be_shown(name):
        name = "".join(c for c in name if c.isascii())
    while len(name.encode()) > FILE_NAME_MAX:
        name = name[:-1]
    return name if may_name_a_file(name) else _NAME


def media_type_of(text: str) -> str:
    """Of a Content-Type; BadLink."""
    media_type = text.partition(";")[0].strip().lower()
    if not is_media_type(media_type):
        raise BadLink("its media type is not given")
    return media_type


def length_of(text: str | None) -> int | None:
    """Of a Content-Length; None: there is none. BadLink."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise BadLink("its length is not a number")
    return int(text)


def lifetime_of(cache_control: str, otherwise: float) -> float:
    """Seconds that an answer may be used again."""
    directives: dict[str, str] = {}
    for part in cache_control.lower().split(","):
        name, _, value = part.strip().partition("=")
        directives.setdefault(name.strip(), value.strip(' "'))
    if directives.keys() & {"no-store", "no-cache", "private"}:
        return 0.0
    for name in ("s-maxage", "max-age"):
        if re.fullmatch(r"[0-9]{1,9}", directives.get(name, "")):
            return float(directives[name])
    return otherwise

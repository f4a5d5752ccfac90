"""What links and headers say, and which hosts and addresses are allowed."""

from ipaddress import ip_address

import pytest

from server.files.addresses import BadHost, Hosts, allowed_of, is_outside
from server.files.links import (
    BadLink,
    joined,
    length_of,
    lifetime_of,
    link_of,
    media_type_of,
    name_of,
)

INSIDE = [
    "0.0.0.0",  # noqa: S104 - an address that is refused
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
OUTSIDE = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("text", INSIDE)
def test_addresses_inside(text: str) -> None:
    assert not is_outside(ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE)
def test_addresses_outside(text: str) -> None:
    assert is_outside(ip_address(text))


@pytest.mark.parametrize(
    ("line", "host", "port", "found"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "example.com", 80, True),
        ("example.com", "example.com", 8080, False),
        ("example.com", "www.example.com", 443, False),
        ("example.com", "xample.com", 443, False),
        ("Example.COM.", "example.com", 443, True),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("wiki.lan=10.0.0.5", "wiki.lan", 80, True),
        ("wiki.lan:81=10.0.0.5", "wiki.lan", 81, True),
        ("[2a00::1]", "2a00::1", 80, True),
        ("[2a00::1]:81", "2a00::1", 81, True),
    ],
)
def test_what_a_line_allows(line: str, host: str, port: int, found: bool) -> None:
    assert (Hosts([line]).find(host, port) is not None) == found
    assert Hosts([]).find(host, port) is None


def test_addresses_that_are_listed() -> None:
    assert allowed_of("wiki.lan=10.0.0.5").address == ip_address("10.0.0.5")
    assert allowed_of("wiki.lan:81=[::1]").address == ip_address("::1")
    assert allowed_of("127.0.0.1:81").address == ip_address("127.0.0.1")
    assert allowed_of("example.com").address is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "*",
        "*.example.com",
        "http://example.com",
        "example.com/x",
        "a b",
        "example.com:0",
        "example.com:65536",
        "example.com:x",
        "example.com=",
        "example.com=host",
        "2130706433",
        "0x7f.1",
        "127.1",
        "-a.com",
        "a..com",
        "bücher.example",
    ],
)
def test_lines_that_say_nothing(line: str) -> None:
    with pytest.raises(BadHost, match=r"neither|not|no port"):
        allowed_of(line)


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://example.com", "http://example.com:80/"),
        ("HTTPS://Example.com./a?b=c#d", "https://example.com:443/a?b=c"),
        ("http://example.com:/x", "http://example.com:80/x"),
        ("http://[2A00::1]:81/ä", "http://[2a00::1]:81/%C3%A4"),
        ("http://example.com/%2e%2e/x", "http://example.com:80/%2e%2e/x"),
    ],
)
def test_a_link_is_written_in_one_way(url: str, written: str) -> None:
    assert link_of(url).url == written


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "http://",
        "http:///x",
        "http://user@example.com/",
        "http://example.com@10.0.0.1/",
        "http://example.com\\@10.0.0.1/",
        "http://example.com /",
        "http://example.com/\r\nHost: x",
        "http://example.com:99999/",
        "http://example.com:x/",
        "http://[::1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://127.1/",
        "http://exa\u200bmple.com/",
    ],
)
def test_links_that_are_not_followed(url: str) -> None:
    with pytest.raises(BadLink):
        link_of(url)


def test_where_a_redirect_leads() -> None:
    link = link_of("http://example.com/a/b?c")
    assert joined(link, "d").url == "http://example.com:80/a/d"
    assert joined(link, "//other.com/").url == "http://other.com:80/"
    assert joined(link, "https://other.com").url == "https://other.com:443/"
    for wrong in ("file:///etc/passwd", "http://[", "gopher://x/", "http://a@b/"):
        with pytest.raises(BadLink):
            joined(link, wrong)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/report.pdf?x=/y", "report.pdf"),
        ("/", "link"),
        ("/a%20b.txt", "a b.txt"),
        ("/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "etcpasswd"),
        ("/.hidden", "hidden"),
        ("/a%00b%1b[31m", "ab[31m"),
        ("/%e2%80%aexcod.exe", "xcod.exe"),
        ("/" + "ä" * 200, "ä" * 64),
        ("/%ff", "\ufffd"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert name_of(link_of("http://example.com" + path)) == name


def test_headers() -> None:
    assert media_type_of("Text/HTML; charset=x") == "text/html"
    for wrong in ("", "text", "a/b/c", "a b/c", "x" * 65 + "/y"):
        with pytest.raises(BadLink):
            media_type_of(wrong)
    assert length_of(None) is None
    assert length_of("12") == 12
    for wrong in ("-1", "1 2", "0x9", "9" * 19, "1,1"):
        with pytest.raises(BadLink):
            length_of(wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 7),
        ("max-age=60", 60),
        ("public, Max-Age=60, s-maxage=5", 5),
        ("no-store", 0),
        ("max-age=60, no-cache", 0),
        ("private, max-age=60", 0),
        ("max-age=0", 0),
        ("max-age=-1", 7),
        ('max-age="9"', 9),
        ("max-age=99999999999999", 7),
    ],
)
def test_how_long_an_answer_lasts(text: str, seconds: float) -> None:
    assert lifetime_of(text, 7) == seconds

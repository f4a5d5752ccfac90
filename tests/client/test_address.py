"""URLs of servers: what is read, what is refused, and that no password is ever shown."""

import asyncio
import pickle
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import AsyncClient, BadArgument, BadUrl, Client, MisuseError, Unauthorized
from client.core.address import Address, is_url, read_url
from tests.client.conftest import Make
from tests.client.peer import PASSWORD
from tests.helpers.server import RunningServer

SECRET = "Tr0ub4dor"  # noqa: S105 - of a user that there is in tests alone


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tradechat://example.org", Address("example.org")),
        ("TradeChat://example.org/", Address("example.org")),
        ("tradechat://alice@host:7878", Address("host", 7878, "alice")),
        ("tradechat://alice:s%40c%3Ar%2Fet@host:1", Address("host", 1, "alice", "s@c:r/et")),
        ("tradechat://al%69ce@host", Address("host", 7878, "alice")),
        ("tradechat://:s@host", None),
        ("tradechat://10.0.0.1:65535", Address("10.0.0.1", 65535)),
        ("tradechat://[::1]:7879", Address("::1", 7879)),
        ("tradechat://alice@[2001:DB8::1]", Address("2001:db8::1", 7878, "alice")),
        ("tradechat://[fe80::1%25eth0]:9", Address("fe80::1%eth0", 9)),
        ("tradechat://a:%C3%A9%20@h", Address("h", 7878, "a", "é ")),
        ("tradechat://h?timeout_s=2.5", Address("h", settings={"timeout_s": 2.5})),
        (
            "tradechat://h:1/?reconnect=true&payments=0&client_name=a%20b",
            Address("h", 1, settings={"reconnect": True, "payments": False, "client_name": "a b"}),
        ),
    ],
)
def test_what_is_read(url: str, expected: Address | None) -> None:
    if expected is None:
        with pytest.raises(BadUrl):
            read_url(url)
    else:
        assert read_url(url) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "form"),
        ("http://host", "form"),
        ("tradechat:host", "form"),
        ("tradechat://", "names no host"),
        ("tradechat://alice@", "names no host"),
        ("tradechat://host:", "port"),
        ("tradechat://host:0", "port"),
        ("tradechat://host:65536", "port"),
        ("tradechat://host:+1", "port"),
        ("tradechat://host:٣", "port"),
        ("tradechat://host:1:2", "form"),
        ("tradechat://::1", "form"),
        ("tradechat://[::1", "form"),
        ("tradechat://[::g]", "IPv6"),
        ("tradechat://[10.0.0.1]", "IPv6"),
        ("tradechat://host/path", "form"),
        ("tradechat://host#fragment", "form"),
        ("tradechat://@host", "user"),
        ("tradechat://a b@host", "blank"),
        ("tradechat://al%20ice@host", "user"),
        ("tradechat://host\n", "blank"),
        ("tradechat://alice:@host", "password is empty"),
        ("tradechat://alice:%zz@host", "hex digits"),
        ("tradechat://alice:%ff@host", "UTF-8"),
        ("tradechat://h%3Aost", "host"),
        ("tradechat://h?timeout=1", "options are timeout_s"),
        ("tradechat://h?timeout_s", "options are timeout_s"),
        ("tradechat://h?timeout_s=nan", "timeout_s is not a number"),
        ("tradechat://h?timeout_s=-1", "timeout_s is not a number"),
        ("tradechat://h?reconnect=yes", "reconnect is not one of"),
        ("tradechat://h?reconnect=1&reconnect=1", "more than once"),
        ("tradechat://h?client_name=" + 65 * "x", "client_name"),
        (7, "not text"),
        (None, "not text"),
    ],
)
def test_what_is_refused(url: Any, why: str) -> None:
    with pytest.raises(BadUrl, match=why) as caught:
        read_url(url, "TRADECHAT_URL")
    assert str(caught.value).startswith("TRADECHAT_URL: it")
    assert isinstance(caught.value, BadArgument | MisuseError | ValueError)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert str(again) == str(caught.value)


NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,32}", fullmatch=True)
HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", fullmatch=True),
    st.ip_addresses(v=6).map(str),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(HOSTS, st.integers(1, 65535), NAMES, TEXTS)
def test_what_is_written_is_read(host: str, port: int, user: str, password: str) -> None:
    address = Address(host, port, user)
    assert read_url(str(address)) == address
    secret = str(address).replace("@", f":{quote(password, safe='')}@")
    assert read_url(secret) == Address(host, port, user, password)
    assert is_url(secret)


@given(
    st.lists(
        st.sampled_from(
            [
                *("tradechat://", "http://", "alice", "host", "::1", "7878", "timeout_s"),
                *(":", "@", "/", "?", "&", "=", "#", "[", "]", "%", "%ff", " "),
                *(SECRET, SECRET),
            ]
        ),
        max_size=12,
    )
)
def test_no_error_shows_what_may_be_a_password(parts: list[str]) -> None:
    """Wherever it was put."""
    url = "".join(parts)
    try:
        address = read_url(url)
    except BadUrl as error:
        shown = "".join(traceback.format_exception(error, chain=True)) + repr(error)
        assert SECRET not in shown
    else:
        assert f"password={SECRET!r}" not in repr(address)
        if address.password is not None:
            assert address.password not in ("", None)


# --- clients


KINDS = pytest.mark.parametrize("kind", [Client, AsyncClient])
URL = f"tradechat://alice:{SECRET}@[::1]:99?timeout_s=3&reconnect=1&payments=1&client_name=x"


@KINDS
def test_a_client_takes_a_url(kind: type[Client | AsyncClient]) -> None:
    made = kind(URL)
    assert (made.host, made.port, made.timeout_s) == ("::1", 99, 3.0)
    assert made.url == "tradechat://alice@[::1]:99"
    assert repr(made) == f"<{kind.__name__} tradechat://alice@[::1]:99, closed>"
    assert made._core.policy.busy_attempts == 4
    assert (made._core.client_name, made._core.capabilities) == ("x", 4)
    assert SECRET not in repr(vars(made)) + repr(vars(made._core))


@KINDS
def test_arguments_go_before_the_url(kind: type[Client | AsyncClient]) -> None:
    made = kind(URL, timeout_s=7, payments=False, client_name="y", username="bob")
    assert (made.timeout_s, made._core.capabilities, made._core.client_name) == (7.0, 0, "y")
    assert made.url == "tradechat://bob@[::1]:99"
    assert made._core.credentials.password is None  # which was that of alice
    assert kind(URL, password=PASSWORD)._core.credentials.password == PASSWORD
    with pytest.raises(BadArgument, match=r"port=1 .*beside a URL"):
        kind(URL, 1)
    with pytest.raises(BadArgument, match="username"):
        kind(password=SECRET)
    with pytest.raises(BadArgument, match="retry") as caught:
        kind(retry=3)  # type: ignore[arg-type]  # what is to be refused
    assert SECRET not in str(caught.value)


@KINDS
def test_the_environment_says_where_the_server_is_if_nobody_else_does(
    kind: type[Client | AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADECHAT_URL", URL)
    assert kind().url == "tradechat://alice@[::1]:99"
    assert kind("h").url == "tradechat://h:7878"
    assert kind(port=5).url == "tradechat://127.0.0.1:5"
    assert kind("tradechat://bob@h").url == "tradechat://bob@h:7878"
    monkeypatch.setenv("TRADECHAT_URL", f"tradechat://alice:{SECRET}")
    with pytest.raises(BadUrl, match=r"^TRADECHAT_URL: its port") as caught:
        kind()
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("TRADECHAT_URL", "")
    assert kind().url == "tradechat://127.0.0.1:7878"


def test_a_url_with_a_password_logs_in(shared: RunningServer, make: Make) -> None:
    url = f"tradechat://alice:{quote(PASSWORD)}@{shared.host}:{shared.port}"
    with make(url) as alice:
        assert alice.username == "alice"
        assert alice.url == f"tradechat://alice@{shared.host}:{shared.port}"
        alice.logout()
        alice.login()
        assert alice.lookup("alice").online == 1
        alice.close()
        alice.connect()
        assert alice.username == "alice"
        assert alice.balance().balance == 0


def test_a_url_with_a_user_waits_for_the_password(shared: RunningServer, make: Make) -> None:
    with make(f"tradechat://alice@{shared.host}:{shared.port}") as alice:
        with pytest.raises(BadArgument, match="password"):
            alice.login()
        alice.login(password=PASSWORD)
        assert alice.username == "alice"
        alice.logout()
        with pytest.raises(BadArgument, match="password"):
            alice.login("bob")
        alice.login("bob", PASSWORD)
        assert alice.url.startswith("tradechat://bob@")


def test_a_wrong_password_of_a_url_closes_the_connection(shared: RunningServer) -> None:
    url = f"tradechat://alice:{SECRET}@{shared.host}:{shared.port}"
    refused = Client(url)
    with pytest.raises(Unauthorized) as caught, refused:
        pytest.fail("it is connected")
    assert repr(refused).endswith(", closed>")
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(refused)

    async def main() -> None:
        refused = AsyncClient(url)
        with pytest.raises(Unauthorized):
            await refused.connect()
        assert repr(refused).endswith(", closed>")

    asyncio.run(main())

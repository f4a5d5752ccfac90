"""Links are fetched from a real HTTP server that misbehaves: a clear error, nothing left over, and
nothing reached that is not allowed."""

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from server.files.addresses import Hosts
from server.files.errors import Busy, NotThere, ShareFull, StoreFull
from server.files.fetch import Times
from server.files.limits import Limits
from server.files.origin import AT_ONCE, TRIES, WAITING_MAX, Failed, Fetched, Origin, TooManyFetches
from server.files.store import Store
from server.files.store import Store as _Store
from tests.server.files.bad_origin import BadOrigin, Request, Serve, bad_origin
from tests.server.files.store_model import Clock

DEADLINE_S = 60.0
FILE_BYTES = 200_000
TIMES = Times(connect=20.0, first_byte=20.0, whole=60.0, back_off=0.01)
SHORT = Times(connect=20.0, first_byte=1.0, whole=60.0, back_off=0.01)


@pytest.fixture
def server() -> Iterator[BadOrigin]:
    with bad_origin() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = _Store(tmp_path / "files", Limits(file_bytes=FILE_BYTES), now=Clock())
    yield store
    assert [p.name for p in (tmp_path / "files/uploads").iterdir()] == [], "nothing is left over"
    assert store.usage().uploads_bytes == 0
    store.close()


def no_names(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host}:{port} is not to be looked up")


Open = Callable[..., Origin]


@pytest.fixture
def opened(store: Store, server: BadOrigin) -> Iterator[Open]:
    """Origins that know the server as origin.test."""
    made: list[Origin] = []

    def opened(
        times: Times = TIMES,
        resolve: Callable[[str, int], list[str]] = no_names,
        hosts: list[str] | None = None,
    ) -> Origin:
        listed = [f"origin.test:{server.port}=127.0.0.1"] if hosts is None else hosts
        made.append(Origin(store, Hosts(listed), times, resolve=resolve))
        return made[-1]

    yield opened
    for each in made:
        each.close()


def ended(origin: Origin, wanted: int = 1) -> list[Fetched | Failed]:
    """Run it as the loop of a process does, until so many have ended."""
    poll = select.poll()
    poll.register(origin, select.POLLIN)
    done: list[Fetched | Failed] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(done) < wanted:
        assert time.monotonic() < deadline, f"{done} and no more"
        poll.poll(min(origin.wait_s(), 1.0) * 1000)
        done += origin.work()
    assert len(done) == wanted
    return done


def fetched(origin: Origin, url: str) -> Fetched:
    origin.start(1, 7, 3, url)
    (done,) = ended(origin)
    assert isinstance(done, Fetched), done
    return done


def failed(origin: Origin, url: str) -> str:
    origin.start(1, 7, 3, url)
    (done,) = ended(origin)
    assert isinstance(done, Failed), done
    assert isinstance(done.error, NotThere), done
    return str(done.error)


# ---- good ones


def test_a_link_is_fetched(opened: Open, server: BadOrigin, store: Store) -> None:
    body = bytes(range(256)) * 700
    server.serve = lambda request: request.answer(body, media_type="Image/PNG; x=y")
    done = fetched(opened(), server.url("/a/picture.png?size=1"))
    assert store.get(done.file.sha256, 0, FILE_BYTES) == body
    assert (done.file.user, done.file.room, done.file.size) == (7, 3, len(body))
    assert (done.file.media_type, done.file.name) == ("image/png", "picture.png")
    assert [method for method, _ in server.requests] == ["HEAD", "GET"]
    for request in server.heads:
        assert request.path == "/a/picture.png?size=1"
        assert request.headers["host"] == f"origin.test:{server.port}"
        assert request.headers["accept-encoding"] == "identity"
        assert not request.headers.keys() & {"cookie", "authorization", "referer"}


def test_an_empty_file(opened: Open, server: BadOrigin) -> None:
    server.serve = lambda request: request.answer(b"")
    assert fetched(opened(), server.url()).file.size == 0


def test_chunked_without_a_length(opened: Open, server: BadOrigin, store: Store) -> None:
    def serve(request: Request) -> None:
        request.answer(length=None, Transfer_Encoding="chunked")
        if request.method == "GET":
            for _ in range(10):
                request.send(b"5\r\nhello\r\n")
            request.send(b"0\r\n\r\n")

    server.serve = serve
    done = fetched(opened(), server.url())
    assert store.get(done.file.sha256, 0, 100) == b"hello" * 10


def test_no_length_at_all_and_the_end_of_the_connection(opened: Open, server: BadOrigin) -> None:
    server.serve = lambda request: request.answer(b"until the end", length=None)
    assert fetched(opened(), server.url()).file.size == 13


def test_an_origin_without_head(opened: Open, server: BadOrigin) -> None:
    server.serve = lambda request: (
        request.answer(b"", "405 Method Not Allowed")
        if request.method == "HEAD"
        else request.answer(b"hello")
    )
    assert fetched(opened(), server.url()).file.size == 5


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxies_of_the_environment_are_off(
    opened: Open, server: BadOrigin, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert fetched(opened(), server.url()).file.size == 5


def test_redirects_are_followed_to_hosts_that_are_allowed(opened: Open, server: BadOrigin) -> None:
    def serve(request: Request) -> None:
        steps = {"/0": "/1", "/1": server.url("/2"), "/2": f"//origin.test:{server.port}/3"}
        if to := steps.get(request.path):
            request.answer(b"go on", "302 Found", Location=to)
        else:
            request.answer(b"hello")

    server.serve = serve
    done = fetched(opened(), server.url("/0"))
    assert (done.file.size, done.file.name) == (5, "3")


# ---- bad ones


def slow(request: Request) -> None:
    request.wait_for_the_end()


def trickle(request: Request) -> None:
    request.answer(length=100)
    if request.method == "GET":
        request.send(b"x")
        request.wait_for_the_end()


def endless(request: Request) -> None:
    request.answer(length=None)
    if request.method == "GET":
        while True:
            request.send(bytes(10_000))


def close_at_once(request: Request) -> None:
    del request


def close_in_the_middle(request: Request) -> None:
    request.answer(b"half", length=100)


def reset_in_the_middle(request: Request) -> None:
    request.answer(b"half", length=100)
    linger = b"\1\0\0\0\0\0\0\0"
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def huge_headers(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        request.send(f"X-{number}: {'y' * 1000}\r\n".encode())


def unlike_head(request: Request) -> None:
    request.answer(b"hello" if request.method == "GET" else b"hello, world")


def loop(request: Request) -> None:
    request.answer(b"", "301 Moved", Location=request.path + "x")


def not_http(request: Request) -> None:
    request.send(b"SSH-2.0-OpenSSH\r\n\r\n")


def bad_chunks(request: Request) -> None:
    request.answer(length=None, Transfer_Encoding="chunked")
    if request.method == "GET":
        request.send(b"zz\r\nhello\r\n")


def chunks_without_an_end(request: Request) -> None:
    request.answer(length=None, Transfer_Encoding="chunked")
    if request.method == "GET":
        request.send(b"5\r\nhello\r\n")


def answer_of(body: bytes = b"hello", status: str = "200 OK", **how: object) -> Serve:
    return lambda request: request.answer(body, status, **how)  # type: ignore[arg-type]


# What the origin does, what is said of it, and how many requests are made.
BAD: dict[str, tuple[Serve, str, int]] = {
    "slow": (slow, "too slow|takes too long", 1),
    "slow in the middle": (trickle, "too slow", 2),
    "endless": (endless, "at most 200000 bytes", 2),
    "closes at once": (close_at_once, "3 times", 3),
    "closes in the middle": (close_in_the_middle, "3 times", 4),
    "resets in the middle": (reset_in_the_middle, "3 times|reset", 4),
    "huge headers": (huge_headers, "headers", 1),
    "too long by its header": (answer_of(length=FILE_BYTES + 1), "at most", 1),
    "too long, by no header": (answer_of(bytes(FILE_BYTES + 1), length=None), "at most", 2),
    "a length that is none": (lambda r: r.answer(b"x", length=None, Content_Length="x"), "", 1),
    "GET unlike HEAD": (unlike_head, "HEAD says 12 bytes, and GET 5", 2),
    "no media type": (answer_of(media_type=None), "media type", 1),
    "no such media type": (answer_of(media_type="text"), "media type", 1),
    "encoded": (answer_of(Content_Encoding="gzip"), "encoded", 1),
    "404": (answer_of(b"", "404 Not Found"), "is 404", 1),
    "403 with a body": (answer_of(bytes(100_000), "403 Forbidden"), "is 403", 1),
    "404 for GET alone": (
        lambda r: r.answer(b"x", "200 OK" if r.method == "HEAD" else "404 No"),
        "is 404",
        2,
    ),
    "503": (answer_of(b"", "503 Busy"), "is 503, 3 times", 3),
    "206": (answer_of(status="206 Partial Content"), "is 206", 1),
    "204": (answer_of(b"", "204 No Content", length=None), "is 204", 1),
    "redirect without a place": (answer_of(status="302 Found"), "is 302", 1),
    "redirect loop": (loop, "more than 3 times", 4),
    "redirect elsewhere": (
        answer_of(b"", "302 Found", Location="http://example.com/"),
        "example.com, port 80, is not allowed",
        1,
    ),
    "redirect inside": (
        answer_of(b"", "302 Found", Location="http://169.254.169.254/latest/"),
        "169.254.169.254, port 80, is not allowed",
        1,
    ),
    "redirect to a file": (
        answer_of(b"", "302 Found", Location="file:///etc/passwd"),
        "neither http nor https",
        1,
    ),
    "redirect to another scheme": (
        answer_of(b"", "302 Found", Location="gopher://127.0.0.1:6379/_x"),
        "neither http nor https",
        1,
    ),
    "redirect with a user": (
        answer_of(b"", "302 Found", Location="http://a@127.0.0.1/"),
        "user name",
        1,
    ),
    "redirect to another port": (
        answer_of(b"", "302 Found", Location="http://origin.test:22/"),
        "port 22, is not allowed",
        1,
    ),
    "not HTTP": (not_http, "", 1),
    "bad chunks": (bad_chunks, "3 times", 4),
    "chunks without an end": (chunks_without_an_end, "3 times", 4),
}


@pytest.mark.parametrize("name", BAD)
def test_what_an_origin_does_wrong(
    opened: Open, server: BadOrigin, store: Store, name: str
) -> None:
    server.serve, said, requests = BAD[name]
    origin = opened(SHORT if name.startswith("slow") else TIMES)
    why = failed(origin, server.url())
    assert any(part in why for part in said.split("|")), why
    assert len(server.requests) == requests, server.requests
    assert store.files() == []
    if not name.startswith("slow"):
        server.serve = lambda request: request.answer(b"hello")
        assert fetched(origin, server.url()).file.size == 5, "it goes on"


def test_5xx_and_a_closed_connection_then_good(opened: Open, server: BadOrigin) -> None:
    def serve(request: Request) -> None:
        match len(server.requests):
            case 1:
                request.answer(b"no", "500 Oops")
            case 2 | 4:
                pass
            case 3 | 6:
                request.answer(b"hello")
            case 5:
                request.answer(b"hel", length=5)

    server.serve = serve
    assert fetched(opened(), server.url()).file.size == 5
    assert len(server.requests) == 2 * TRIES


def test_nobody_listens(opened: Open, server: BadOrigin) -> None:
    url = server.url()
    server.close()
    assert "3 times" in failed(opened(), url)


def test_all_of_it_has_one_limit_of_time(opened: Open, server: BadOrigin) -> None:
    """However often it moves on, and is slow each time within what is allowed."""
    server.serve = slow
    times = Times(connect=60, first_byte=60, whole=0.5, back_off=0.01)
    why = failed(opened(times), server.url())
    assert "too long" in why or "timed out" in why
    assert len(server.requests) == 1


# ---- addresses


def test_only_listed_hosts(opened: Open, server: BadOrigin) -> None:
    origin = opened()
    for url in (
        f"http://127.0.0.1:{server.port}/",
        f"http://localhost:{server.port}/",
        f"http://[::ffff:127.0.0.1]:{server.port}/",
        f"http://sub.origin.test:{server.port}/",
        "http://origin.test/",
    ):
        assert "is not allowed" in failed(origin, url)
    assert "user name" in failed(origin, f"http://origin.test:{server.port}@127.0.0.1/")
    assert server.requests == []


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["10.0.0.1", "::1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], []]
)
def test_a_listed_name_that_leads_inside(opened: Open, server: BadOrigin, found: list[str]) -> None:
    origin = opened(resolve=lambda *_: found, hosts=[f"origin.test:{server.port}"])
    assert "no address outside" in failed(origin, server.url())
    assert server.requests == []


def test_a_name_server_that_changes_its_mind(
    opened: Open, server: BadOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request goes to an address that was checked for it: here the first name is outside as
    far as the check knows, and the second is not."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        del port
        asked.append(host)
        return answers[min(len(asked), 2) - 1]

    monkeypatch.setattr(
        "server.files.origin.is_outside", lambda address: str(address) == "127.0.0.1"
    )
    origin = opened(resolve=resolve, hosts=[f"origin.test:{server.port}"])
    assert "no address outside" in failed(origin, server.url())
    assert [method for method, _ in server.requests] == ["HEAD"]


def test_libcurl_connects_to_the_address_that_was_checked_and_asks_nobody(
    opened: Open, server: BadOrigin
) -> None:
    """localhost would lead elsewhere, if libcurl looked it up."""
    origin = opened(hosts=[f"localhost:{server.port}=127.0.0.3"])
    assert "3 times" in failed(origin, server.url(host="localhost"))
    assert server.requests == []
    origin = opened(hosts=[f"no-such-host.test:{server.port}=127.0.0.1"])
    assert fetched(origin, server.url(host="no-such-host.test")).file.size == 5


def test_a_name_that_is_not_found_and_one_that_is_no_name(opened: Open) -> None:
    def resolve(host: str, port: int) -> list[str]:
        del port
        raise OSError(f"{host} is not known")

    origin = opened(resolve=resolve, hosts=["origin.test"])
    assert "origin.test is not found, 3 times" in failed(origin, "http://origin.test/")
    assert "has a blank" in failed(origin, "http://origin.test/ x")
    assert "neither http" in failed(origin, "file:///etc/passwd")


def certificate(directory: Path) -> ssl.SSLContext:
    """Of a server that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "origin.test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("origin.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(
        built.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_a_certificate_that_nobody_vouches_for(
    opened: Open, server: BadOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tls = certificate(tmp_path)
    url = server.url().replace("http:", "https:")
    assert "certificate" in failed(opened(), url)
    assert server.requests == []
    monkeypatch.setattr("server.files.fetch._authorities", lambda: f"{tmp_path}/certificate.pem")
    assert fetched(opened(), url).file.size == 5, "it was for no other reason"


# ---- many, again, and none any more


def test_many_at_once_and_one_that_is_slow_delays_nobody(opened: Open, server: BadOrigin) -> None:
    server.serve = lambda request: (
        slow(request) if request.path == "/slow" else request.answer(request.path.encode())
    )
    origin = opened(Times(connect=5, first_byte=30, whole=30))
    origin.start(0, 1, 1, server.url("/slow"))
    many = 3 * AT_ONCE
    for number in range(1, many + 1):
        origin.start(number, 1, 1, server.url(f"/{number}"))
    done = ended(origin, many)
    assert {each.number for each in done} == set(range(1, many + 1))
    assert all(isinstance(each, Fetched) and each.file.name == str(each.number) for each in done)


def test_too_many(opened: Open, server: BadOrigin) -> None:
    server.serve = slow
    origin = opened()
    for number in range(AT_ONCE + WAITING_MAX):
        origin.start(number, 1, 1, server.url())
    with pytest.raises(TooManyFetches):
        origin.start(-1, 1, 1, server.url())
    for number in range(AT_ONCE + WAITING_MAX):
        origin.cancel(number)
    server.serve = lambda request: request.answer(b"hello")
    assert fetched(origin, server.url()).file.size == 5


def test_a_fetch_that_is_cancelled_leaves_nothing(
    opened: Open, server: BadOrigin, store: Store
) -> None:
    server.serve = trickle
    origin = opened(Times(connect=5, first_byte=30, whole=30))
    origin.start(1, 1, 1, server.url())
    deadline = time.monotonic() + DEADLINE_S
    while not store.usage().uploads:
        assert time.monotonic() < deadline
        select.select([origin], [], [], origin.wait_s())
        assert origin.work() == []
    origin.cancel(1)
    assert store.usage().uploads == 0
    assert origin.work() == []


@pytest.mark.parametrize(
    ("said", "again"), [("max-age=60", 0), ("no-store", 2), ("", 0), ("max-age=0", 2)]
)
def test_a_link_is_remembered_as_its_origin_says(
    opened: Open, server: BadOrigin, store: Store, said: str, again: int
) -> None:
    server.serve = answer_of(b"hello", Cache_Control=said)
    origin = opened()
    first = fetched(origin, server.url())
    second = fetched(origin, server.url())
    assert second.file.file_id != first.file.file_id
    assert second.remembered == (again == 0)
    assert len(server.requests) == 2 + again
    assert origin.invalidate(server.url()) == (again == 0)
    assert not fetched(origin, server.url()).remembered
    assert store.usage().contents == 1


def test_a_link_whose_contents_have_gone_is_fetched_again(
    opened: Open, server: BadOrigin, store: Store
) -> None:
    origin = opened()
    store.published(fetched(origin, server.url()).file.file_id)
    store.expire(1 << 62)
    assert store.files() == []
    assert not fetched(origin, server.url()).remembered


def test_no_space(server: BadOrigin, tmp_path: Path) -> None:
    """Which is not the origin's fault."""
    full = Store(tmp_path / "full", Limits(total_bytes=8192, user_bytes=4096), now=Clock())
    origin = Origin(full, Hosts([f"origin.test:{server.port}=127.0.0.1"]), TIMES)
    try:
        server.serve = answer_of(bytes(5_000))
        origin.start(1, 1, 1, server.url())
        (done,) = ended(origin)
        assert isinstance(done, Failed)
        assert isinstance(done.error, ShareFull)
        full.receive(2)
        full.receive(3)
        origin.start(1, 1, 1, server.url())
        (done,) = ended(origin)
        assert isinstance(done, Failed)
        assert isinstance(done.error, StoreFull)
        assert isinstance(done.error, Busy)
    finally:
        origin.close()
        full.close()

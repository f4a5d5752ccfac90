"""The page of the admin port, in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.messages import Opcode
from server.admin.web import routes
from tests.helpers.server import RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import Lobby
from tests.server.admin.web.browser import CHROMIUM, DRIVER, ENTER, TAB, Browser, browsing

FOLDER = Path(routes.__file__).parent
needs_a_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no chromium here, or no chromedriver"
)


@pytest.fixture(scope="module")
def port() -> int:
    return lasting_port()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("page") / "data"
    with RunningServer(folder, "--admin-port", str(port)) as server:
        yield server


@pytest.fixture(scope="module")
def browser(
    shared: RunningServer, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as made:
        made.open(f"http://127.0.0.1:{port}/")
        wait_until(lambda: text(made, "#state") == "Ready", "it has asked")
        yield made
        assert made.complaints() == []
        assert shared.process.poll() is None


def text(browser: Browser, selector: str) -> str:
    found = browser.run("return document.querySelector(arguments[0]).textContent", selector)
    return str(found)


def rows(browser: Browser, table: str) -> dict[str, list[str]]:
    """The rows of a table by their headings."""
    found = browser.run(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))",
        table,
    )
    return {first: rest for first, *rest in found}


@needs_a_browser
def test_it_shows_what_goes_on(shared: RunningServer, browser: Browser) -> None:
    with Lobby(shared) as lobby:
        wire = lobby.enter()
        wire.ok(Opcode.JOIN_ROOM, 7)
        wire.ok(Opcode.DEPOSIT, 100)
        wait_until(lambda: "DEPOSIT" in rows(browser, "#requests"), "the request is shown")
        wait_until(lambda: rows(browser, "#rooms").get("7", [""])[0] == "1", "and the room")
        workers = rows(browser, "#workers")
        assert list(workers) == ["0", "1"]
        assert {worker[0] for worker in workers.values()} <= {"idle", "busy"}
        assert rows(browser, "#rings")["Transactions"][0] == "2", "registration and deposit"
        assert "MiB" in rows(browser, "#disk")["Files take"][0]
        assert text(browser, "#now dd") == str(lobby.counters()["connections"])
        assert "requests" in text(browser, "#charts figure b")
        points = "return document.querySelector('polyline').getAttribute('points')"
        wait_until(lambda: " " in browser.run(points), "the chart has points")


@needs_a_browser
def test_nothing_comes_from_elsewhere(browser: Browser, port: int) -> None:
    urls = browser.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert {re.sub(r"^(https?://[^/]+/).*", r"\1", url) for url in urls} == {
        f"http://127.0.0.1:{port}/"
    }


@needs_a_browser
def test_it_is_light_or_dark_as_its_reader_has_it(browser: Browser) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        browser.emulate(prefers_color_scheme=scheme)
        seen[scheme] = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert seen == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 23, 26)"}


@needs_a_browser
def test_all_of_it_is_reached_by_the_keyboard(browser: Browser) -> None:
    """In the order of the page; and the one button works."""
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(7):
        browser.press(TAB)
        reached.append(
            browser.run(
                "const on = document.activeElement;"
                "return on.getAttribute('href') || on.id || on.getAttribute('aria-labelledby')"
            )
        )
    assert reached == [
        "#main", "pause", "workers-title", "requests-title", "health", "metrics", "stats",
    ]  # fmt: skip
    browser.run("document.getElementById('pause').focus()")
    for pressed in ("true", "false"):
        browser.press(ENTER)
        state = "return document.getElementById('pause').getAttribute('aria-pressed')"
        assert browser.run(state) == pressed


@needs_a_browser
def test_a_screen_reader_has_names_for_all_of_it(browser: Browser) -> None:
    nodes = browser.accessible()
    names = {role: [name for r, name in nodes if r == role] for role in {role for role, _ in nodes}}
    assert {"Workers", "Requests", "Rings", "Disk", "Busiest rooms"} <= set(names["heading"])
    assert {"Workers", "Requests"} <= set(names["region"])
    assert "Last update" in names["columnheader"]
    assert "0" in names["rowheader"]
    charts = names["image"]
    assert [name.partition(":")[0] for name in charts] == [
        "Requests", "Deliveries", "Latency", "Loop lag",
    ]  # fmt: skip
    assert all(re.search(r"\d|\u2013", name) for name in charts), "what is drawn is said, too"
    assert ("status", "") in nodes or "status" in names
    assert all(name for role in ("button", "link", "image") for name in names[role])


@needs_a_browser
def test_it_says_where_the_server_does_not_answer(
    browser: Browser, start_server: StartServer, port: int
) -> None:
    own = lasting_port()
    server = start_server("--admin-port", str(own))
    browser.open(f"http://127.0.0.1:{own}/")
    wait_until(lambda: text(browser, "#state") == "Ready", "it has asked")
    server.stop()
    wait_until(lambda: text(browser, "#state").startswith("No answer"), "it has asked in vain")
    browser.open(f"http://127.0.0.1:{port}/")
    said = browser.complaints()
    assert all("net::ERR_" in line for line in said), said


def _luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast(scheme: int) -> None:
    """At least 4.5 : 1, on both backgrounds."""
    style = (FOLDER / "page.css").read_text()
    colours: list[tuple[str, str]] = re.findall(r"--([a-z]+): (#[0-9a-f]{6});", style)
    half = len(colours) // 2
    by_name = dict(colours[half * scheme : half * (scheme + 1)])
    for back in ("back", "panel"):
        for name in ("text", "muted", "accent", "second", "good", "bad"):
            lights = sorted(_luminance(by_name[each]) + 0.05 for each in (name, back))
            assert lights[1] / lights[0] >= 4.5, f"{name} on {back}"


def test_the_page_has_no_outside_resource() -> None:
    """No address of anything else in its files, but the name of a namespace."""
    for name in ("page.html", "page.css", "page.js"):
        content = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(]//", content), name

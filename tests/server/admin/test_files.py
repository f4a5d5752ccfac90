"""`tradechat-admin files`, and files on the screens of status and top."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.messages import CHUNK_MAX, Opcode
from server.admin.board import files_pane, status_lines
from server.admin.cli import main
from server.admin.health import health
from server.admin.segments import segments_in_use
from server.admin.snapshot import look
from server.admin.web.metrics import METRICS
from server.region.region import Region
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, Wire, frozen
from tests.integration.test_files import ROOM, begin, fetch, large, member, sha, share
from tests.integration.test_files_faults import files_pid
from tests.server.files.bad_origin import bad_origin


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data") as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(arguments) == code, capsys.readouterr()
    return capsys.readouterr().out


def test_files_are_listed_shown_and_verified(
    lobby: Lobby, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, data = member(lobby), large(CHUNK_MAX + 1)
    file_id, _ = share(ann, data, "holiday.txt")
    begun, _ = begin(ann, b"not yet", "later.txt")
    where = ("--data", str(tmp_path / "data"))

    def rows(*more: str) -> dict[int, dict[str, object]]:
        lines = shown(capsys, "files", "list", *where, "--json", *more).splitlines()
        return {row["file_id"]: row for row in map(json.loads, lines)}

    wait_until(lambda: rows()[file_id]["state"] == "published", "its event has been seen")
    assert {number: row["state"] for number, row in rows().items()} == {
        file_id: "published",
        begun: "upload",
    }
    assert rows()[file_id]["name"] == "holiday.txt"
    assert rows("--room", "2") == {}
    assert set(rows("--room", "1", "--user", str(ann.user))) == {file_id, begun}
    assert "holiday.txt" in shown(capsys, "files", "list", *where)
    assert sha(data).hex() in shown(capsys, "files", "show", str(file_id), *where)
    shown(capsys, "files", "show", "4711", *where, code=3)
    assert "1 contents, 61441 bytes, 0 problems" in shown(capsys, "files", "verify", *where)
    contents = (tmp_path / "data" / "files" / "contents").rglob("*")
    (content,) = (each for each in contents if each.is_file())
    content.chmod(0o600)
    content.write_bytes(b"x" + data[1:])
    told = shown(capsys, "files", "verify", *where, code=1)
    assert "PROBLEM: " in told
    assert f"(files: {file_id})" in told
    shown(capsys, "files", "list", "--data", str(tmp_path), code=3)


def test_a_link_is_fetched_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bad_origin() as origin:
        flags = ("--link-hosts", f"origin.test:{origin.port}=127.0.0.1")
        with RunningServer(tmp_path / "data", *flags) as server, Lobby(server) as lobby:
            ann, where = member(lobby), ("--data", str(tmp_path / "data"))

            def asked(wire: Wire) -> int:
                before = len(origin.requests)
                file_id = wire.ok(Opcode.LINK_FETCH, ROOM, origin.url()).file_id
                assert fetch(wire, file_id) == b"hello"
                return len(origin.requests) - before

            assert asked(ann) == 2
            assert asked(ann) == 0, "it is remembered"
            shown(capsys, "files", "invalidate", origin.url(), *where)
            wait_until(lambda: "links_invalidated" in server.log_text(), "it is forgotten")
            assert asked(ann) == 2
            file_id = ann.ok(Opcode.LINK_FETCH, ROOM, origin.url()).file_id
            shown(capsys, "files", "invalidate", str(file_id), *where)
            wait_until(lambda: server.log_text().count("links_invalidated") == 2, "forgotten")
            assert asked(ann) == 2
            assert server.stop() == 0


def test_the_screens_and_the_metrics(lobby: Lobby) -> None:
    region = Region.attach(lobby.server.name)
    before = look(region)
    ann = member(lobby)
    file_id, _ = share(ann, large(CHUNK_MAX))
    fetch(ann, file_id)
    wait_until(lambda: region.files.published == 1, "its event has been seen")
    with frozen(files_pid(lobby)):
        ann.send(Opcode.FILE_GET, file_id, 1, 9)
        wait_until(lambda: bool(list(segments_in_use(region))), "a segment is lent")
        ((_, _, state, kind, user, of, _),) = segments_in_use(region)
        assert (state, kind, user, of) == ("IN_PROGRESS", "GET", ann.user, file_id)
        now = look(region)
        lines = [line.text for line in files_pane(before, now)]
        assert lines[0].startswith("files: queue ")
        assert any("IN_PROGRESS  GET" in line for line in lines), lines
    assert ann.answer().status == 0
    told = "\n".join(line.text for line in status_lines(now, health(now)))
    assert "files" in told
    assert "1 stored, 60.0 KiB; 0 uploads" in told
    values = {
        (metric.name, labels): value
        for metric in METRICS
        for labels, value in metric.samples(now)
        if metric.name.startswith("files_")
    }
    assert values["files_published_total", ()] == 1
    assert values["files_bytes_total", ("received",)] == CHUNK_MAX
    assert values["files_stored", ("contents",)] == 1
    assert values["files_segments_lent", ()] == 1
    region.close()

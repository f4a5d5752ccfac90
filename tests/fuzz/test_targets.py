"""The targets of fuzzing, for moments: the seeds, what was found before, and changes to seeds that
are the same in every run. `make fuzz` goes on from there."""

import random
from pathlib import Path

import pytest

from server.archive.segments import Scan
from server.journal.reader import Reader
from tests.fuzz import targets
from tests.fuzz.corpus import FOLDER, seeds
from tests.fuzz.files import StoredFiles
from tests.fuzz.targets import TARGETS, Script
from tests.libproto.strategies import CODECS

FOUND = Path(__file__).parent / "found"
EXECUTIONS = {"journal": 60, "histories": 200}
MORE = 400


def stored(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FOLDER / target).iterdir())]


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_are_those_that_are_made(target: str) -> None:
    assert stored(target) == seeds()[target], "python -m tests.fuzz.corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target: str) -> None:
    rng = random.Random(target)  # noqa: S311 - the same for the same seed
    run, known = TARGETS[target], stored(target)
    for seed in known:
        run(seed)
    for _ in range(EXECUTIONS.get(target, MORE)):
        changed = bytearray(rng.choice(known) + rng.randbytes(rng.choice((0, 0, 1, 9))))
        for _ in range(rng.randrange(1, 5)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.choice(
                    (0, 1, 127, 255, rng.randrange(256))
                )
        run(bytes(changed))


def test_what_was_found_before() -> None:
    """A file for each, whose name begins with its target."""
    for path in sorted(FOUND.glob("*")):
        TARGETS[path.name.partition("-")[0]](path.read_bytes())


def test_the_files_that_are_changed_are_good_before() -> None:
    """Else everything would be refused for that."""
    disk = targets.changed_files(Script(b""), ".journal")
    assert disk.files == StoredFiles(targets.directory()).files
    reader = Reader(disk, targets.JOURNAL, targets.log_id())
    assert sum(batch.count for batch in reader.batches()) > 10
    assert len(list(Scan(disk, targets.HISTORIES).batches())) > 1


def test_a_sealed_stream_that_nobody_edits_is_read() -> None:
    sealed, sent = targets.recorded(True)
    assert len(sealed) == len(sent) > 10
    assert {frame[-1] for frame in sent} == {0}


@pytest.mark.parametrize(
    ("target", "planted"),
    [
        ("framing", ("libproto.framing.Decoder._refill", lambda *_: False)),
        ("sealing", ("libproto.sealing.Opener.open", lambda _, __, body: body[:-16])),
        ("inflation", ("tests.fuzz.targets.inflate", lambda body, _: body * 100_000)),
        ("session", ("client.core.session.ClientCore.receive", lambda *_: 1 // 0)),
        ("journal", ("server.journal.reader.Reader.batches", lambda *_: 1 // 0)),
        ("records", ("server.journal.books.Books.register", lambda *_: 1 // 0)),
        ("snapshots", ("server.journal.snapshot._problems", lambda _: 1 // 0)),
        ("histories", ("server.archive.segments.batch_head", lambda *_: 1 // 0)),
        ("codec", ("libproto.errors.Status.OK", 0)),
    ],
)
def test_a_planted_bug_is_found(
    target: str, planted: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if target == "codec":
        name = targets.NAMES[stored(target)[0][0] % len(targets.NAMES)]
        monkeypatch.setattr(CODECS[name][2], "encode", lambda *_: b"?")
    else:
        monkeypatch.setattr(*planted)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        test_nothing_is_found(target)

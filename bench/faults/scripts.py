"""The table of the scripts: what each of them breaks."""

from typing import Final

from bench.faults.crashing import crash
from bench.faults.disturbing import Disturbance, disturbing
from bench.faults.files import kill_while_sharing
from bench.faults.interrupting import interrupt
from bench.faults.script import Script
from bench.faults.taking_over import take_over
from bench.faults.trader import Trading

SCRIPTS: Final = (
    Script(
        "kill9",
        "SIGKILL a random worker",
        0.25,
        "a kill every",
        disturbing(Disturbance.kill),
        figure="kills",
    ),
    Script(
        "stop",
        "SIGSTOP a random worker for a while",
        0.5,
        "a stop every",
        disturbing(Disturbance.stop),
        figure="stops",
        # Some stops are longer than that, and than the ring reaches: gaps are told.
        flags=("--worker-timeout=2", "--event-ring=128"),
    ),
    Script(
        "reset",
        "reset connections in the middle of a frame, and between request and answer",
        0.02,
        "a reset every",
        disturbing(Disturbance.reset),
        needs_pid=False,
    ),
    Script(
        "restart",
        "SIGHUP to the server, which replaces its workers: nobody may lose a connection",
        8.0,
        "a restart every",
        disturbing(Disturbance.restart),
        figure="restarts",
    ),
    Script(
        "journal",
        "SIGKILL the journal process, every fourth time the archive process",
        1.0,  # longer than the server takes for a failure in a row, which it waits after
        "a kill every",
        disturbing(Disturbance.kill_keeper),
        figure="journal_kills",
        flags=("--txn-ring=4096",),  # so that TXN_HISTORY reads what was written
    ),
    Script(
        "crash",
        "SIGKILL all processes of the server at once, and start it again on its data",
        1.5,
        "each server about",
        crash,
        needs_own=True,
        flags=("--room-history=20000",),  # so that the verdict sees all of a run
    ),
    Script(
        "take-over",
        "start another server that takes the place of the one before; of some, kill one of the two",
        3.0,
        "a take-over every",
        take_over,
        needs_own=True,
        flags=("--room-history=20000",),
    ),
    Script(
        "board",
        "many takers of few offers: SIGKILL a worker, the journal, the archive, or all at once",
        0.4,
        "a kill about every",
        crash,
        needs_own=True,
        flags=("--room-history=20000",),
        load=Trading,
        whole=0.2,
    ),
    Script(
        "files",
        "SIGKILL the files process, a worker or the whole server while files are shared",
        0.7,
        "a kill every",
        kill_while_sharing,
        needs_own=True,
        flags=("--segments=8", "--room-history=100000"),  # all that was announced is looked at
    ),
    Script("interrupt", "SIGINT to the server under load", 3.0, "a SIGINT after", interrupt),
)

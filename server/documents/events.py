"""docs/EVENTS.md: what a server logs, so that a program or a person can watch for it.

The table is here and not at the calls: a log line carries what is known when it is written, and the
meaning is said once. tests/server/documents/test_events.py compares it with every call.
"""

from typing import Final, NamedTuple

from server import documents
from server.documents.tables import table

COMMAND: Final = f"python -m {documents.__name__} events"


class Event(NamedTuple):
    """A log line by its `event`; `level` is the least that it is logged at."""

    name: str
    level: str
    about: str


EVENTS: Final = (
    Event("log_lines_dropped", "warning", "`count` lines of this process could not be written"),
    Event("log_file_unusable", "error", "a new process cannot open `path` and logs to standard"
          " error"),
    Event("variable_passed_over", "warning", "an environment variable is not used"),
    Event("loading", "info", "how far the start is in reading the state from disk"),
    Event("loaded", "info", "the state on disk is in the region, as of `txn_id`"),
    Event("idle_times_unknown", "warning", "the file of a stop is passed over: all clients begin to"
          " be idle at the start"),
    Event("idle_times_unwritable", "warning", "a stop cannot keep how long clients were idle"),
    Event("snapshot_made", "info", "a snapshot of the state as of `txn_id`"),
    Event("snapshot_failed", "error", "no snapshot could be made; the journal has it all"),
    Event("snapshot_unwritable", "error", "why a snapshot could not be made: the disk"),
    Event("snapshot_crashed", "error", "why a snapshot could not be made: a fault of the program"),
    Event("snapshot_damaged", "warning", "a snapshot is damaged, and the one before it is used"),
    Event("journal_end_cut", "warning", "the journal ended in a batch that was not written wholly;"
          " nothing of it had been answered"),
    Event("journal_damaged", "error", "a snapshot's process found damage in the journal"),
    Event("journal_unusable", "error", "the journal is damaged or of another format: the server"
          " stops"),
    Event("journal_unwritable", "error", "the journal cannot be written: no transaction is"
          " accepted, and the server stops"),
    Event("journal_crashed", "error", "a fault in the journal process, which is replaced"),
    Event("worker_outlived_journal", "warning", "a worker did not stop in time, and can make no"
          " transaction any more"),
    Event("rooms_end_cut", "warning", "the file of the rooms' events ended in a batch that was not"
          " written wholly"),
    Event("rooms_unusable", "error", "the files of the rooms' events are damaged or of another"
          " format"),
    Event("rooms_unwritable", "error", "the rooms' events cannot be written; the archive is tried"
          " again"),
    Event("room_events_dropped", "error", "`events` waited too long for the disk and are not kept"),
    Event("history_unreadable", "error", "an answer from the files failed"),
    Event("archive_crashed", "error", "a fault in the archive process, which is replaced"),
)  # fmt: skip


def document() -> str:
    """Return docs/EVENTS.md."""
    rows = [(f"`{event.name}`", event.level, event.about) for event in EVENTS]
    return "\n".join(
        [
            "# Events of the server's log",
            "",
            f"<!-- Made from server/documents/events.py by `{COMMAND}`. Do not edit. -->",
            "",
            "A line is one event. With `--log-format json` it is one JSON object: `ts`, `level`,",
            "`event`, `pid`, then what is bound to the process, then the fields of the event.",
            "`reason` is the text of an error, `advice` is what the operator can do about it.",
            "",
            table(("event", "level", "meaning"), rows),
            "",
        ]
    )

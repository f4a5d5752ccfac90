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
    Event("open_files_limited", "warning", "fewer files may be open than `max_connections` needs:"
          " the system refuses the connections over it"),
    Event("not_compiled", "warning", "the server runs interpreted, though nobody asked for it: a"
          " request takes several times the CPU time"),
    Event("files_queue_unusable", "warning", "a worker cannot open the queue of the files process:"
          " requests for files are answered ERR_SERVER_BUSY until it can"),
    Event("segments_unusable", "warning", "a worker has no space in /dev/shm for the segments that"
          " files pass through: requests for files are answered ERR_SERVER_BUSY until it has"),
    Event("runs_as_root", "warning", "the server runs as root, which it has no need to"),
    Event("data_exposed", "warning", "others can write to `path`, which is the data directory or"
          " above it"),
    Event("cannot_start", "error", "the server cannot start, and ends"),
    Event("serving", "info", "the server serves: where, with what settings, with what `fingerprint`"
          " of its key, and in what `form`, compiled or interpreted"),
    Event("identity_made", "info", "the server had no key that says who it is, and has made one:"
          " its `fingerprint` is what clients show"),
    Event("ready_line_unwritable", "warning", "the line that says `ready` cannot be written to"
          " standard output; the server serves"),
    Event("stats", "info", "numbers of the last `--stats-interval`, unless they are the same as in"
          " the line before"),
    Event("signal_ignored", "info", "a signal that has no meaning, or no further effect"),
    Event("operator_asks", "info", "`tradechat-admin`, process `sender`, sent `command`"),
    Event("operator_refused", "warning", "a process of another `user` sent a command"),
    Event("upgrade_started", "info", "SIGUSR2: the program was started again, to take the place of"
          " this server"),
    Event("upgrade_not_started", "error", "SIGUSR2: the `program` cannot be started"),
    Event("take_over_begins", "info", "the process `successor` is to take the place of this server,"
          " and has been given its listening sockets; this one serves on"),
    Event("take_over_abandoned", "warning", "that process has ended before it was ready: this"
          " server serves on"),
    Event("handing_over", "info", "that process is ready: this server answers, brings all to disk"
          " and lets go of its data"),
    Event("taken_over", "info", "that process serves: this server ends"),
    Event("take_over_failed", "error", "that process has ended before it served: this server starts"
          " again from the journal, on the same sockets"),
    Event("take_over_unheard", "warning", "the other server of a take-over has ended, and cannot be"
          " told anything"),
    Event("taking_over", "info", "this server has the sockets of the process `predecessor`, which"
          " is to end now"),
    Event("predecessor_died", "warning", "that process was killed, or has failed: this server goes"
          " on from the journal"),
    Event("log_reopened", "info", "SIGUSR1: every process reopens its log file"),
    Event("reloading", "info", "SIGHUP: the settings were read again, those that have `changed` are"
          " in force, and the workers are replaced one by one"),
    Event("settings_refused", "error", "SIGHUP: something is wrong with the settings, and nothing"
          " changes"),
    Event("settings_kept", "warning", "SIGHUP: new values of these settings take effect at the next"
          " restart"),
    Event("workers_resized", "info", "SIGTTIN or SIGTTOU: the number of workers becomes `workers`"),
    Event("workers_not_resized", "info", "SIGTTIN or SIGTTOU, but `workers` is at its limit"),
    Event("connections_uneven", "warning", "the system cannot spread new connections over a part of"
          " the listeners: some workers accept on more than one"),
    Event("connections_lost", "warning", "no descriptor was free for connections handed to a worker"
          " that has ended"),
    Event("audit_unusable", "error", "lines of the audit log, `path`, cannot be written"),
    Event("guessing", "warning", "wrong passwords for `name` come from `address`, on and on: they"
          " are answered later and later; told once in ten minutes"),
    Event("overloaded", "warning", "a worker is later than `lag_limit`, or more answers wait than"
          " `queue_limit`: it answers requests ERR_SERVER_BUSY, chat first"),
    Event("overload_over", "info", "it refuses nothing any more, after `seconds`; how many of each"
          " class it has refused"),
    Event("worker_leaves", "info", "another worker has replaced this one, which ends once its"
          " clients have left"),
    Event("stopping", "info", "a signal asks the server to stop"),
    Event("interrupted_again", "warning", "a second SIGINT in a stop: the server ends at once"),
    Event("stopped", "info", "the server has ended in order, `seconds` after it was asked to"),
    Event("process_died", "warning", "a process of the server has ended without being asked to, and"
          " is replaced"),
    Event("process_died_early", "warning", "a process was killed before it served, and is"
          " replaced"),
    Event("process_stuck", "error", "a process has not responded for longer than `worker_timeout`,"
          " and is killed"),
    Event("process_not_forked", "warning", "the system refused to fork a process; the master tries"
          " again"),
    Event("process_given_up", "error", "at a stop, the master gave up restarting a process that"
          " keeps exiting before everything is on disk"),
    Event("process_unkillable", "error", "a process that was killed has not ended"),
    Event("workers_overdue", "warning", "workers did not end in their part of `graceful_timeout`,"
          " and are killed"),
    Event("processes_overdue", "warning", "processes did not end within `graceful_timeout`, and are"
          " killed: every transaction is on disk, but no last snapshot, or not the last events of"
          " rooms"),
    Event("journal_unfinished", "error", "the journal is not on disk within `graceful_timeout`, and"
          " the server ends without its last `transactions`; none of them was answered, unless"
          " answers do not wait for the disk"),
    Event("durability_lost", "error", "the server can no longer make anything durable, and stops"),
    Event("lock_held_too_long", "error", "worker `waiting` waits for a lock far longer than any"
          " transaction takes: the process that acquired it is stuck, and is killed"),
    Event("worker_unresponsive", "error", "a worker does not pause for a repair, and is killed"),
    Event("repair_not_forked", "error", "the system refused to fork a repair; the master tries"
          " again, and the workers stay paused until then"),
    Event("repair_died", "warning", "a repair has ended before it was done, and another begins"),
    Event("repair_crashed", "error", "a fault in a repair"),
    Event("repaired", "info", "what a repair has done after the death of `workers`"),
    Event("invariant_broken", "error", "a problem that a repair found and cannot mend"),
    Event("workers_resumed", "info", "a repair is done, and the workers carry on"),
    Event("state_discarded", "error", "the shared state is inconsistent after a worker's death: the"
          " server rebuilds it from the journal, and all connections are lost"),
    Event("state_lost", "error", "the shared state is inconsistent after a worker's death, and"
          " there is no journal: the server ends"),
    Event("worker_stopping", "info", "a worker was asked to stop, while it had `connections`"),
    Event("worker_crashed", "error", "a fault in a worker, which is replaced"),
    Event("worker_crashed_in_lock", "error", "a fault in a worker while it changed the shared"
          " state: it ends at once, and a repair follows"),
    Event("not_accepting", "error", "no descriptor or memory is left for a new connection: clients"
          " wait, and a worker tries again after `retry_s` seconds; told once in a minute"),
    Event("out_of_memory", "error", "a worker gets no more memory: connections that want some are"
          " closed, and no others accepted, until there is some"),
    Event("worker_out_of_memory", "error", "a worker got no memory for something that cannot be"
          " left undone: it ends, and is replaced"),
    Event("callback_crashed", "error", "a fault in a worker, which carries on"),
    Event("child_crashed", "error", "a fault in a new process, which ends"),
    Event("master_crashed", "error", "a fault in the master: the server ends"),
    Event("thread_crashed", "error", "a fault in a thread, which ends"),
    Event("exception_ignored", "error", "a fault where none can be raised; the process carries on"),
    Event("library_warned", "warning", "a warning of a library"),
    Event("login", "debug", "a session begins"),
    Event("session_ended", "debug", "a session ends"),
    Event("refused", "debug", "a request is answered with an error"),
    Event("loader_crashed", "error", "a fault while the state on disk was read; the server cannot"
          " start"),
    Event("loading", "info", "how much of the state the start has read from disk"),
    Event(
        "data_directory_converted",
        "warning",
        "the data directory had the older format `from_format`: this version goes on with it, and "
        "older versions cannot any more",
    ),
    Event("loaded", "info", "the state on disk is in the region, as of `txn_id`"),
    Event("new_data_directory", "warning", "`path` was empty: a new bank begins in it"),
    Event("history_damaged", "warning", "the journal is damaged below a snapshot: nothing is lost"
          " but what TXN_HISTORY shows from before it"),
    Event("clock_behind_log", "warning", "the clock is `seconds` behind the newest transaction"),
    Event("clock_went_back", "warning", "the clock went back by `seconds`; times in the log do"
          " not"),
    Event("idle_times_unknown", "warning", "the idle times kept at the last stop cannot be used:"
          " every client counts as idle from the start on"),
    Event("idle_times_unwritable", "warning", "how long clients were idle could not be kept at the"
          " stop"),
    Event("events_copied", "warning", "the archive lags far behind: the events of journal segment"
          " `segment` were copied for it, and the segment goes"),
    Event("events_not_copied", "error", "these events could not be copied, so this segment and all"
          " later ones stay"),
    Event("segment_packed", "debug", "journal segment `segment` was packed, to be kept for"
          " `history_days`, and goes"),
    Event("segment_not_packed", "error", "journal segment `segment` could not be packed, so this"
          " one and all later ones stay"),
    Event("snapshot_made", "info", "a snapshot of the state as of `txn_id`"),
    Event("snapshot_failed", "error", "no snapshot could be made; the journal has it all"),
    Event("snapshot_unwritable", "error", "a snapshot could not be written"),
    Event("snapshot_crashed", "error", "a snapshot could not be made, because of a fault in the"
          " program"),
    Event("snapshot_damaged", "warning", "a snapshot is damaged, and the one before it is used"),
    Event("journal_end_cut", "warning", "the journal ended in a batch that was not written wholly;"
          " nothing of it had been answered, and it is in `kept`"),
    Event("events_lost", "error", "a start has found `events` damaged, and carries on without them:"
          " money is whole, rooms and inboxes begin a new epoch unless they are `in_histories`, and"
          " no client gets an outcome of an earlier request that may be wrong; their bytes are in"
          " `kept`"),
    Event("disk_full", "error", "the journal's next segment cannot be allocated in `directory`:"
          " requests that need space are refused until it can"),
    Event("disk_has_space", "info", "the segment could be allocated, and requests are accepted"
          " again"),
    Event("journal_damaged", "error", "a snapshot's process found damage in the journal"),
    Event("journal_unusable", "error", "the journal is damaged or of another format: the server"
          " stops"),
    Event("journal_unwritable", "error", "the journal cannot be written: no transaction is"
          " accepted, and the server stops"),
    Event("journal_crashed", "error", "a fault in the journal process, which is replaced"),
    Event("worker_outlived_journal", "warning", "a worker did not stop in time, and can no longer"
          " make transactions"),
    Event("histories_end_cut", "warning", "the files of the histories ended in something that was"
          " not written wholly; it is read from the journal again"),
    Event("histories_set_aside", "error", "the files of the histories are damaged, or do not belong"
          " to the journal: they are in `kept`, and histories begin where the journal does"),
    Event("histories_shortened", "warning", "the histories had events that the journal does not"
          " have; these are dropped"),
    Event("histories_lack_events", "error", "events are damaged in the journal that the histories"
          " did not have yet: they are not shown any more"),
    Event("histories_unwritable", "error", "the histories cannot be kept up: chat is refused until"
          " they can, payments continue, and the archive tries again"),
    Event("histories_late", "error", "more than `archive_lag_max` is missing in the histories: chat"
          " is refused until they have caught up"),
    Event("histories_recovered", "info", "the histories can be kept up again"),
    Event("history_unreadable", "error", "an answer from the files failed"),
    Event("admin_request", "debug", "a request to the admin port was answered"),
    Event("admin_request_given_up", "debug", "a request to the admin port was too slow, or its"
          " client is gone"),
    Event("admin_request_failed", "error", "a fault while a request to the admin port was"
          " answered"),
    Event("admin_crashed", "error", "a fault in the admin process, which is replaced"),
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

"""The metrics: one table, from which /metrics and docs/METRICS.md are made, and against which a
test checks the dashboard and the alerts in deploy/.

Names, units and types keep the conventions of Prometheus: base units (seconds, bytes), `_total`
for what only grows. Money is in minor units, as everywhere. Of opcodes only those are there that
have occurred.
"""

from typing import Final

from server.admin.health import health
from server.admin.web.samples import (
    SIZE_BOUNDS,
    US,
    Distribution,
    Kind,
    Metric,
    by_opcode,
    by_status,
    by_worker,
    counter,
    file_requests,
    latencies,
    of_files,
    of_journal,
    one,
    times,
    word,
    worker_states,
)
from server.region.counters import LOCK_KINDS
from server.region.layout import WorkerState

BUILD_INFO: Final = "1; its labels say which version runs, and in which form"
_REASONS: Final = (
    "bad_header",
    "bad_checksum",
    "bad_sealing",
    "unopened",
    "bad_frame",
    "unknown_opcode",
    "rate_limited",
    "over_quota",
    "shed",
)
_SHED: Final = ("chat", "logins", "ledger")
_RINGS: Final = {"txn": "log", "event": "events"}
_TABLES: Final = {"accounts": "users", "clients": "clients", "sessions": "live_sessions"}
_NOT_YET: Final = (WorkerState.STOPPED, WorkerState.STARTING)  # it has no cursor


_files_moved: Final = of_files(received="bytes_in", sent="bytes_out")
_files_stored: Final = of_files(contents="contents_bytes", uploads="uploads_bytes")
_files_count: Final = of_files(contents="contents", uploads="uploads")
_links: Final = of_files(fetched="fetched", failed="unfetched")


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "start_time_seconds",
        _G,
        "when the server started, since the Unix epoch",
        word("header", "started", US),
    ),
    Metric("live", _G, "1 where /health says live", one(lambda s: health(s).live)),
    Metric("ready", _G, "1 where /health says ready", one(lambda s: health(s).ready)),
    Metric(
        "recovering",
        _G,
        "1 while the workers pause for a repair",
        one(lambda s: bool(s.first["header"]["recovery"])),
    ),
    Metric("connections", _G, "open connections", counter("connections")),
    Metric(
        "unauthenticated_connections",
        _G,
        "open connections that are not logged in",
        counter("unauthenticated"),
    ),
    Metric("sessions", _G, "logged-in connections", counter("sessions")),
    Metric("encrypted_connections", _G, "encrypted connections", counter("encrypted")),
    Metric(
        "failed_logins_total",
        _C,
        "logins with a wrong name or password",
        counter("failed_logins"),
    ),
    Metric(
        "guesses_delayed_total",
        _C,
        "logins that waited before they were looked at, as others had failed before",
        counter("guesses_delayed"),
    ),
    Metric(
        "guesses_refused_total",
        _C,
        "logins refused unread, as too many had failed before",
        counter("guesses_refused"),
    ),
    Metric(
        "refused_clear_total",
        _C,
        "HELLO and REGISTER refused, as they were not encrypted",
        counter("refused_clear"),
    ),
    Metric("accepted_connections_total", _C, "connections accepted", counter("accepted")),
    Metric(
        "refused_connections_total",
        _C,
        "connections refused, as there were too many: in all, of the address, or not logged in",
        counter("refused"),
    ),
    Metric(
        "refused_connections_of_address_total",
        _C,
        "connections refused, as there were address_connections of their address",
        counter("refused_address"),
    ),
    Metric(
        "made_way_connections_total",
        _C,
        "connections closed before they logged in, as others had no place",
        counter("made_way"),
    ),
    Metric(
        "slowed_requests_total",
        _C,
        "requests that came sooner than their rate, after which their connection was not read for"
        " a moment",
        counter("slowed"),
    ),
    Metric(
        "untold_payments_total",
        _C,
        "PAYMENT pushes left out, as there were too many of one payer to one payee",
        counter("payments_untold"),
    ),
    Metric(
        "timed_out_connections_total",
        _C,
        "connections closed by the handshake or idle deadline",
        counter("timed_out"),
    ),
    Metric(
        "superseded_sessions_total",
        _C,
        "sessions whose place a later LOGIN has taken",
        counter("superseded"),
    ),
    Metric("requests_total", _C, "requests received", by_opcode("requests"), ("opcode",)),
    Metric(
        "received_bytes_total",
        _C,
        "bytes of these requests, headers included",
        by_opcode("request_bytes"),
        ("opcode",),
    ),
    Metric(
        "sent_frames_total",
        _C,
        "frames sent: responses, and pushes with status OK",
        by_status("sent"),
        ("opcode", "status"),
    ),
    Metric(
        "sent_bytes_total",
        _C,
        "bytes of these frames, headers included",
        by_status("sent_bytes"),
        ("opcode", "status"),
    ),
    Metric(
        "request_duration_seconds",
        _H,
        "from the arrival of a request to the write of its response, durability included",
        latencies,
        ("opcode",),
    ),
    Metric(
        "rejected_total",
        _C,
        "frames and requests rejected before they were executed, by reason",
        lambda s: [((reason,), s.counters[reason]) for reason in _REASONS],
        ("reason",),
    ),
    Metric(
        "shed_total",
        _C,
        "requests that overloaded workers refused, by what they count for",
        lambda s: [((each,), s.counters[f"shed_{each}"]) for each in _SHED],
        ("class",),
    ),
    Metric("overloads_total", _C, "times that a worker was overloaded", counter("overloads")),
    Metric("overloaded_workers", _G, "workers that refuse requests now", counter("overloaded")),
    Metric(
        "delivery_delay_seconds",
        _H,
        "from an event (message, join, leave, payment) to its push, for each receiver",
        one(lambda s: times(*s.deliveries)),
    ),
    Metric("sent_gaps_total", _C, "ROOM_GAP frames pushed: events were missed", counter("gaps")),
    Metric("ring_laps_total", _C, "times that the event ring lapped a worker", counter("laps")),
    Metric(
        "ring_head",
        _G,
        "number of the newest record of a ring",
        lambda s: [((ring,), s.first[segment]["head"]) for ring, segment in _RINGS.items()],
        ("ring",),
    ),
    Metric(
        "ring_capacity",
        _G,
        "records that a ring holds",
        lambda s: [((ring,), s.first["header"][f"capacity_{ring}_ring"]) for ring in _RINGS],
        ("ring",),
    ),
    Metric(
        "durable_lag_records",
        _G,
        "records of a ring that are not durable yet",
        lambda s: [((ring,), s.lag(segment)) for ring, segment in _RINGS.items()],
        ("ring",),
    ),
    Metric(
        "lock_waits_total",
        _C,
        "waits for a lock that another process held",
        lambda s: [((kind,), s.counters[f"waits_{kind}"]) for kind in LOCK_KINDS],
        ("lock",),
    ),
    Metric(
        "lock_wait_seconds_total",
        _C,
        "time waited for these locks",
        lambda s: [((kind,), s.counters[f"waited_ns_{kind}"] * 1e-9) for kind in LOCK_KINDS],
        ("lock",),
    ),
    Metric(
        "journal_batch_records",
        _H,
        "records written and synced together",
        of_journal(
            lambda s: Distribution(s.batches, SIZE_BOUNDS, float(s.first["journal"]["records"]))
        ),
    ),
    Metric(
        "journal_sync_duration_seconds",
        _H,
        "time to write and sync a batch",
        of_journal(lambda s: times(s.syncs, s.first["journal"]["sync_us"])),
    ),
    Metric(
        "journal_failed",
        _G,
        "1 where the journal cannot be written: the server stops",
        of_journal(lambda s: bool(s.first["journal"]["failed"])),
    ),
    Metric(
        "snapshot_time_seconds",
        _G,
        "when the newest snapshot was finished, since the Unix epoch; 0: never",
        of_journal(lambda s: s.first["journal"]["snapshot_time"] * US),
    ),
    Metric(
        "archive_lag_bytes",
        _G,
        "durable events that are not in the histories of rooms and inboxes yet",
        of_journal(lambda s: s.first["archive"]["lag"]),
    ),
    Metric(
        "archive_closed",
        _G,
        "1 while chat is refused, as the archive lags too far or cannot write",
        of_journal(lambda s: bool(s.first["archive"]["closed"])),
    ),
    Metric(
        "archive_queries_total",
        _C,
        "questions for what is older than the rings, answered by the archive",
        of_journal(lambda s: s.first["archive"]["queries"]),
    ),
    Metric(
        "disk_used_bytes",
        _G,
        "space that the files of the data directory take",
        of_journal(lambda s: s.first["archive"]["disk_used"]),
    ),
    Metric(
        "disk_free_bytes",
        _G,
        "space that is left on their file system",
        of_journal(lambda s: s.first["archive"]["disk_free"]),
    ),
    Metric(
        "files_queue_messages",
        _G,
        "requests in the queue of the files process when it looked last",
        of_journal(lambda s: s.first["files"]["queued"]),
    ),
    Metric(
        "files_requests_total",
        _C,
        "requests of workers that the files process has taken up, by what came of them",
        file_requests,
        ("result",),
    ),
    Metric(
        "files_bytes_total",
        _C,
        "bytes of files that clients have sent, and that the files process has handed to workers",
        _files_moved,
        ("direction",),
    ),
    Metric(
        "files_published_total",
        _C,
        "files whose publication became durable",
        of_journal(lambda s: s.first["files"]["published"]),
    ),
    Metric(
        "files_stored_bytes",
        _G,
        "space that the store of files takes: whole files, and uploads that are not finished",
        _files_stored,
        ("what",),
    ),
    Metric(
        "files_stored",
        _G,
        "how many of them there are",
        _files_count,
        ("what",),
    ),
    Metric(
        "files_links_total",
        _C,
        "links that were fetched, and that could not be",
        _links,
        ("result",),
    ),
    Metric(
        "files_links_under_way",
        _G,
        "links that are being fetched",
        of_journal(lambda s: s.first["files"]["fetching"]),
    ),
    Metric(
        "files_segments_lent",
        _G,
        "segments that workers have handed to the files process",
        counter("file_loans"),
    ),
    Metric(
        "files_requests_waiting",
        _G,
        "requests for files that wait for a segment",
        counter("file_waiting"),
    ),
    Metric(
        "files_requests_late_total",
        _C,
        "requests for files that were given up, as no answer came in time",
        counter("file_late"),
    ),
    Metric(
        "files_cache_chunks_total",
        _C,
        "chunks of files by whether a worker had them in its cache",
        lambda s: [(("hit",), s.counters["file_hits"]), (("miss",), s.counters["file_misses"])],
        ("result",),
    ),
    Metric(
        "files_cache_evictions_total",
        _C,
        "chunks that left a cache for others",
        counter("file_evictions"),
    ),
    Metric(
        "files_cache_bytes",
        _G,
        "bytes in the caches of all workers",
        counter("file_cached"),
    ),
    Metric("worker_deaths_total", _C, "workers repaired after", word("repairs", "deaths")),
    Metric(
        "killed_processes_total",
        _C,
        "processes that the master killed as they did not respond",
        word("repairs", "kills"),
    ),
    Metric("repairs_total", _C, "repairs of the shared state done", word("repairs", "repairs")),
    Metric("pauses_total", _C, "times that all workers paused", word("repairs", "pauses")),
    Metric(
        "pause_seconds_total",
        _C,
        "time that they paused",
        word("repairs", "paused_us", US),
    ),
    Metric(
        "longest_pause_seconds",
        _G,
        "the longest of these pauses",
        word("repairs", "paused_us_max", US),
    ),
    Metric(
        "worker_state",
        _G,
        "1 for the state that a worker is in; stale: it has said nothing for 30 s",
        worker_states,
        ("worker", "state"),
    ),
    Metric(
        "worker_connections",
        _G,
        "open connections of a worker",
        by_worker(lambda s, slot: s.workers[slot].connections),
        ("worker",),
    ),
    Metric(
        "worker_waiting_frames",
        _G,
        "frames that a worker has received and not answered yet",
        by_worker(lambda s, slot: s.workers[slot].waiting),
        ("worker",),
    ),
    Metric(
        "worker_memory_bytes",
        _G,
        "a worker's own resident memory, without the shared region",
        by_worker(lambda s, slot: s.workers[slot].memory),
        ("worker",),
    ),
    Metric(
        "memory_bytes",
        _G,
        "resident memory of each process of the server alone, without the shared region",
        lambda s: [((name,), memory) for name, memory in s.memory.items()],
        ("process",),
    ),
    Metric(
        "worker_loop_lag_seconds",
        _G,
        "the longest delay of a worker's timers in the last second",
        by_worker(lambda s, slot: s.workers[slot].lag_us * US),
        ("worker",),
    ),
    Metric(
        "worker_event_lag",
        _G,
        "events that a worker has not come to yet in the event ring",
        by_worker(
            lambda s, slot: (
                max(0, s.first["events"]["head"] - s.workers[slot].cursor)
                if s.workers[slot].state not in _NOT_YET
                else 0
            )
        ),
        ("worker",),
    ),
    Metric(
        "table_used",
        _G,
        "records of a table that are in use",
        lambda s: [((table,), s.first["registry"][field]) for table, field in _TABLES.items()],
        ("table",),
    ),
    Metric(
        "table_capacity",
        _G,
        "records of that table; the setting of that name raises it",
        lambda s: [((table,), s.first["header"][f"capacity_{table}"]) for table in _TABLES],
        ("table",),
    ),
    Metric(
        "room_members",
        _G,
        "memberships of all rooms",
        word("registry", "members"),
    ),
    Metric("region_bytes", _G, "size of the shared region", word("header", "size")),
    Metric(
        "money_imbalance_minor_units",
        _G,
        "conservation: all balances - (deposits - withdrawals), at one transaction; always 0."
        " Computed only so often that it takes 0.2 % of a processor",
        lambda s: [] if s.imbalance is None else [((), s.imbalance)],
    ),
)

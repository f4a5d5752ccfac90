"""What is counted: one record of words per worker, written by that worker alone; readers sum.

No lock is taken to count. The tables make the region's segments, the stats line and the inspector.
"""

from dataclasses import dataclass

from libproto.errors import Status
from libproto.messages import MESSAGES
from server.region.histogram import BUCKETS


@dataclass(frozen=True, slots=True)
class Counter:
    name: str
    about: str
    gauge: bool = False  # goes up and down; the rest only grow


REQUESTED = tuple(message for message in MESSAGES if message.request is not None)

LOCK_KINDS = ("registry", "account", "log", "event")

COUNTERS: tuple[Counter, ...] = (
    Counter("connections", "open connections", gauge=True),
    Counter("unauthenticated", "open connections that are not logged in", gauge=True),
    Counter("sessions", "logged-in connections", gauge=True),
    Counter("encrypted", "encrypted connections", gauge=True),
    Counter("accepted", "connections accepted"),
    Counter("refused", "connections over a limit"),
    Counter("refused_address", "of these, over that of their address"),
    Counter("made_way", "connections closed before they logged in, as others had no place"),
    Counter("failed_logins", "logins with a wrong name or password"),
    Counter("guesses_delayed", "logins that waited, as others had failed before"),
    Counter("guesses_refused", "logins refused unread, as too many had failed before"),
    Counter("refused_clear", "HELLO and REGISTER refused for want of encryption"),
    Counter("bad_header", "frames with a wrong magic, version, header_len or body_len"),
    Counter("bad_checksum", "frames with a wrong checksum"),
    Counter("bad_sealing", "frames encrypted or clear against what was agreed"),
    Counter("unopened", "encrypted frames that did not open: altered, repeated or moved"),
    Counter("bad_frame", "frames with wrong flags, reserved bits, status, req_id or compression"),
    Counter("unknown_opcode", "frames with an opcode that is no request"),
    Counter("slowed", "requests that came sooner than their rate, and held their connection up"),
    Counter("rate_limited", "requests refused, as they were over a rate"),
    Counter("over_quota", "requests refused, as their user had written too much in an hour"),
    Counter("shed", "requests that came while the server was stopping"),
    Counter("shed_chat", "chat requests refused under overload"),
    Counter("shed_logins", "HELLO, REGISTER, LOGIN refused under overload"),
    Counter("shed_ledger", "ledger requests refused under overload"),
    Counter("overloads", "times that this worker was overloaded"),
    Counter("overloaded", "workers that refuse requests under overload", gauge=True),
    Counter("timed_out", "connections closed by the handshake or idle deadline"),
    Counter("pushes", "frames pushed to connections"),
    Counter("payments_untold", "PAYMENT pushes left out, as there were too many of one payer"),
    Counter("gaps", "ROOM_GAP frames pushed"),
    Counter("laps", "times that the event ring lapped this worker"),
    Counter("superseded", "sessions superseded"),
    Counter("file_loans", "segments that are handed over", gauge=True),
    Counter("file_waiting", "requests for files that wait for a segment", gauge=True),
    Counter("file_late", "requests for files that were given up, as no answer came in time"),
    Counter("file_hits", "chunks of files answered from the cache"),
    Counter("file_misses", "chunks of files that were not in the cache"),
    Counter("file_evictions", "chunks of files that left the cache for others"),
    Counter("file_cached", "bytes in the cache of files", gauge=True),
    *(Counter(f"waits_{kind}", f"waits for {kind} locks") for kind in LOCK_KINDS),
    *(Counter(f"waited_ns_{kind}", f"time waited for {kind} locks") for kind in LOCK_KINDS),
)

# What is counted by worker and opcode: the name, what it says, its words.
ROWS: tuple[str, ...] = (*(message.name for message in MESSAGES), "OTHER")
"""The rows of each worker: the opcodes in the order of the table of messages, and all the rest."""
STATUSES = len(Status)
SERVED: tuple[tuple[str, str, int], ...] = (
    ("requests", "requests received", 1),
    ("request_bytes", "bytes of these, headers included", 1),
    ("sent", "frames sent, by status: responses, or pushes", STATUSES),
    ("sent_bytes", "bytes of these, by status", STATUSES),
    ("latency_us", "microseconds from arrival to answer, summed over the responses", 1),
    ("latency", "responses by that time; see histogram.py", BUCKETS),
)

# What each worker says of itself, every second or so: one record per worker.
STATUS: tuple[tuple[str, str], ...] = (
    ("updated", "commit word: when, microseconds of CLOCK_MONOTONIC; 0: never, or just now"),
    ("state", "WorkerState"),
    ("connections", "open connections"),
    ("waiting", "frames received and not answered yet"),
    ("memory", "bytes of its own memory: resident, and neither of the region nor of a file"),
    ("requests", "requests since the slot's first worker began"),
    ("lag_us", "longest delay of its loop's timer since the update before, microseconds"),
    ("cursor", "number of the event that it has come to in the event ring"),
)

# What the files process tells: one record, written by it alone.
FILES: tuple[tuple[str, str], ...] = (
    ("requests", "requests of workers taken up"),
    ("failed", "requests that were answered with an error"),
    ("stale", "messages about a loan that had ended"),
    ("bytes_in", "bytes of files received"),
    ("bytes_out", "bytes of files handed to workers"),
    ("published", "files whose event was seen to be durable"),
    ("contents", "contents in the store"),
    ("contents_bytes", "bytes that they take"),
    ("uploads", "uploads that are not finished"),
    ("uploads_bytes", "bytes that are kept for them"),
    ("removed", "times that contents were removed: what workers keep of them goes"),
    ("fetching", "links that are being fetched"),
    ("fetched", "links that were fetched"),
    ("unfetched", "links that could not be fetched"),
)

# What the repairs of dead workers add up to: one record, written by one process at a time.
REPAIRS: tuple[tuple[str, str], ...] = (
    ("repairs", "repairs done"),
    ("deaths", "workers repaired after"),
    ("redone", "intents found committed and done again"),
    ("kills", "processes killed as they stood still"),
    ("discarded", "intents found not committed and forgotten"),
    ("completed", "events found committed and completed"),
    ("rebuilt", "times that what is derived was built anew"),
    ("freed", "semaphores initialised"),
    ("ended", "sessions of dead workers ended"),
    ("pauses", "times that all workers stood still"),
    ("paused_us", "microseconds that they stood still"),
    ("paused_us_max", "the longest of these"),
)

assert tuple(map(int, Status)) == tuple(range(STATUSES)), "a status is the place of its word"
INDEX = {counter.name: i for i, counter in enumerate(COUNTERS)}


def index_of(name: str) -> int:
    """The word of a counter within its record."""
    return INDEX[name]

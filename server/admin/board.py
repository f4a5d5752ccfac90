"""What is shown of a running server to a person, as lines: the screens of `status` and `top`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from server.admin.health import Health
from server.admin.history import Sample, quantile
from server.admin.segments import segments_in_use
from server.admin.show import aligned
from server.admin.snapshot import Snapshot
from server.region.layout import ServerState, WorkerState
from server.region.status import Status

_MIB: Final = 1 << 20
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_DAY_S: Final = 86_400

SORTS: Final = ("worker", "requests_per_s", "connections", "memory_MiB", "lag_ms")
"""Columns that the workers may be sorted by: after the first, the greatest are above."""
_SORT_KEYS: Final[Mapping[str, Callable[[Status, float], float]]] = {
    "requests_per_s": lambda _, rate: rate,
    "connections": lambda status, _: status.connections,
    "memory_MiB": lambda status, _: status.memory,
    "lag_ms": lambda status, _: status.lag_us,
}
assert set(_SORT_KEYS) == set(SORTS[1:])


class Line(NamedTuple):
    """A line of a screen."""

    text: str
    is_strong: bool = False  # to be seen first


# ---- values


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, after days where there are any."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, _DAY_S)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def size(count: int) -> str:
    """Bytes, in the unit that leaves a number below 1,024."""
    amount, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{count} bytes" if unit == _UNITS[0] else f"{amount:.1f} {unit}"


def milliseconds(time_us: float | None) -> str:
    return "-" if time_us is None else f"{time_us / 1000:.3f}"


def _condition(found: Health) -> Iterator[Line]:
    """How the server is, in a sentence each."""
    if found.ready and not found.warnings:
        yield Line("ready")
    for reason in found.reasons:
        yield Line(f"not ready: {reason}", is_strong=True)
    for warning in found.warnings:
        yield Line(f"warning: {warning}", is_strong=True)


def _name(of: Snapshot) -> str:
    header = of.first["header"]
    state = ServerState(header["state"]).name
    age = duration(time.time() - header["started"] / 1e6)
    return f"{of.region.name}, {state}, up {age}, master {header['master_pid']}"


# ---- workers


def workers(
    of: Snapshot, rates: Mapping[int, float] | None = None, sort: str = SORTS[0]
) -> list[Line]:
    """A table of them. rates: requests per second by slot; None: their number is shown instead."""
    pids = of.region.column("workers", "pid")
    found = list(of.workers.items())
    if key := _SORT_KEYS.get(sort):
        found.sort(key=lambda each: -key(each[1], (rates or {}).get(each[0], 0.0)))
    last = "requests" if rates is None else SORTS[1]
    rows = [["worker", "pid", "state", "connections", "waiting", last, *SORTS[3:], "age_s"]]
    for slot, status in found:
        done = str(status.requests) if rates is None else f"{rates.get(slot, 0.0):.1f}"
        age_us = max(0, of.now_us - status.updated)  # it may have said something since
        age = f"{age_us / 1e6:.1f}" if status.updated else "-"
        rows.append(
            [
                *(str(slot), str(pids[slot] or "-"), status.state.name),
                *(str(status.connections), str(status.waiting), done),
                *(f"{status.memory / _MIB:.1f}", milliseconds(status.lag_us), age),
            ]
        )
    stale = [False, *(status.state is WorkerState.STALE for _, status in found)]
    return [Line(*each) for each in zip(aligned(rows), stale, strict=True)]


# ---- the screen of `status`


def status_lines(of: Snapshot, found: Health) -> list[Line]:
    """One screen: server, health, clients, what is on disk, workers."""
    condition = list(_condition(found))
    pairs = [("server", _name(of)), *(("health", line.text) for line in condition)]
    pairs += [("clients", _clients(of)), ("requests", _requests(of)), ("memory", _memory(of))]
    pairs.append(("journal", _journal(of)))
    if of.has_journal:
        pairs += [("archive", _archive(of)), ("files", _files(of)), ("disk", _disk(of))]
    pairs.append(("repairs", _repairs(of)))
    strong = {line.text for line in condition if line.is_strong}
    width = max(len(name) for name, _ in pairs)
    lines = [Line(f"{name:{width}}  {text}", text in strong) for name, text in pairs]
    return [*lines, Line(""), *workers(of)]


def _clients(of: Snapshot) -> str:
    counters, users = of.counters, of.first["registry"]["users"]
    return f"{counters['connections']} connections, {counters['sessions']} sessions; {users} users"


def _requests(of: Snapshot) -> str:
    records = of.served.values()
    answers = [sum(column) for column in zip(*(r["latency"] for r in records), strict=True)]
    p50, p99 = (milliseconds(quantile(answers, share)) for share in (0.5, 0.99))
    requests = sum(record["requests"][0] for record in records)
    refused = sum(sum(record["sent"][1:]) for record in records)
    return f"{requests}, refused {refused}; p50 {p50} ms, p99 {p99} ms since the start"


def _memory(of: Snapshot) -> str:
    of_workers = sum(worker.memory for worker in of.workers.values())
    return f"region {size(of.region.layout.size)}, workers {size(of_workers)}"


def _archive(of: Snapshot) -> str:
    archive = of.first["archive"]
    return f"up to event {archive['reached']}, {size(archive['lag'])} behind"


def _files(of: Snapshot) -> str:
    files = of.first["files"]
    if not files["serving"]:
        return "no process serves files just now"
    return (
        f"{files['contents']} stored, {size(files['contents_bytes'])}; {files['uploads']} uploads, "
        f"{size(files['uploads_bytes'])}; {files['fetching']} links under way"
    )


def _disk(of: Snapshot) -> str:
    archive = of.first["archive"]
    return f"{size(archive['disk_used'])} used, {size(archive['disk_free'])} free"


def _repairs(of: Snapshot) -> str:
    repairs = of.first["repairs"]
    longest = milliseconds(repairs["paused_us_max"])
    return f"{repairs['repairs']}, all workers paused {longest} ms at most"


def _journal(of: Snapshot) -> str:
    if not of.has_journal:
        return "none (--durability none): nothing is kept on disk"
    journal, batches = of.first["journal"], sum(of.batches)
    log, events = of.first["log"], of.first["events"]
    mean = milliseconds(journal["sync_us"] / batches if batches else None)
    return (
        f"transaction {log['durable']} and event {events['durable']} are durable, {of.lag('log')} "
        f"and {of.lag('events')} behind; sync {mean} ms on average, "
        f"{milliseconds(journal['sync_us_max'])} at most; snapshot at {journal['snapshot']}"
    )


# ---- the screen of `top`

_MOVED: Final = ("bytes_in", "bytes_out")


def rates(before: Snapshot, now: Snapshot) -> dict[int, float]:
    """Requests per second of each worker, between its updates that the two looks have found."""
    found = {}
    for slot, status in now.workers.items():
        old = before.workers.get(slot)
        if old is not None and old.updated and status.updated > old.updated:
            seconds = (status.updated - old.updated) / 1e6
            found[slot] = max(0.0, (status.requests - old.requests) / seconds)
    return found


def top_lines(
    before: Snapshot,
    now: Snapshot,
    found: Health,
    sample: Sample,
    by: Mapping[int, float],
    sort: str,
) -> list[Line]:
    """Rates, latency, rings, workers, and the opcodes with most requests between two looks. by:
    requests per second of each worker."""
    ring = [["ring", "newest", "durable", "behind", "records"]]
    for name, segment, records in (
        ("txn_ring", "log", now.region.layout.capacities.txn_ring),
        ("event_ring", "events", now.region.layout.capacities.event_ring),
    ):
        words = now.first[segment]
        durable = str(words["durable"]) if now.has_journal else "-"
        ring.append([name, str(words["head"]), durable, str(now.lag(segment)), str(records)])
    return [
        Line(_name(now)),
        *_condition(found),
        Line(
            f"requests/s {sample.requests_per_s:.1f}  refused/s {sample.refusals_per_s:.1f}  "
            f"deliveries/s {sample.deliveries_per_s:.1f}  p50 {milliseconds(sample.p50_us)} ms  "
            f"p99 {milliseconds(sample.p99_us)} ms"
        ),
        Line(f"connections {sample.connections}  waiting {sample.waiting}  sorted by {sort}"),
        Line(""),
        *map(Line, aligned(ring)),
        Line(""),
        *workers(now, by, sort),
        Line(""),
        *files_pane(before, now),
        *map(Line, aligned(_opcodes(before, now))),
    ]


def files_pane(before: Snapshot, now: Snapshot) -> list[Line]:
    """The files: queue, throughput, caches, and the segments that are lent; nothing where there has
    been nothing of it."""
    files, old = now.first["files"], before.first["files"]
    if not files["requests"]:
        return []
    seconds = max((now.now_us - before.now_us) / 1e6, 1e-9)
    per_s = {name: (files[name] - old[name]) / seconds for name in ("requests", *_MOVED)}
    hits, misses = (now.counters[f"file_{each}"] for each in ("hits", "misses"))
    share = f"{100 * hits / (hits + misses):.0f} %" if hits + misses else "-"
    lines = [
        Line(
            f"files: queue {files['queued']} of {files['depth']}  requests/s "
            f"{per_s['requests']:.1f}  in {size(int(per_s['bytes_in']))}/s  "
            f"out {size(int(per_s['bytes_out']))}/s  cache hits {share}  waiting "
            f"{now.counters['file_waiting']}"
        )
    ]
    lent = [["worker", "segment", "state", "request", "user", "file_id", "transferred"]]
    lent += [[str(cell) for cell in row] for row in segments_in_use(now.region)]
    return [*lines, *(map(Line, aligned(lent)) if len(lent) > 1 else ()), Line("")]


def _opcodes(before: Snapshot, now: Snapshot) -> Sequence[Sequence[str]]:
    """Those with requests between two looks, most first."""
    seconds = max((now.now_us - before.now_us) / 1e6, 1e-9)
    found = []
    for opcode, record in now.served.items():
        old = before.served[opcode]
        requests = record["requests"][0] - old["requests"][0]
        refused = sum(record["sent"][1:]) - sum(old["sent"][1:])
        answers = [new - was for new, was in zip(record["latency"], old["latency"], strict=True)]
        if requests:
            quantiles = (milliseconds(quantile(answers, share)) for share in (0.5, 0.99))
            rate = (f"{requests / seconds:.1f}", f"{refused / seconds:.1f}")
            found.append((requests, [opcode, *rate, *quantiles]))
    found.sort(key=lambda each: -each[0])
    heading = ["opcode", "requests_per_s", "refused_per_s", "p50_ms", "p99_ms"]
    return [heading, *(row for _, row in found)]

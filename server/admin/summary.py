"""The summary of a region: what `tradechat-admin inspect` shows when it is asked for no segment."""

from collections.abc import Mapping, Sequence

from libcli.output import put
from server.admin.command import say
from server.admin.inspect import RINGS, Value
from server.admin.show import put_json, put_lines, put_table
from server.admin.sums import summary
from server.admin.values import NONE, as_text
from server.region.region import Region


def show_summary(region: Region, *, as_json: bool) -> None:
    """Show `summary`; and tell where no server has the region any more."""
    found = summary(region)
    if as_json:
        put_json(found)
    else:
        _show(found)
    if not region.is_held():
        say(
            "no process has this region any more: a server that was killed left it, and the next "
            "one of this name replaces it"
        )


def _show(found: Mapping[str, Value]) -> None:
    capacities, use = found["capacities"], found["use"]
    workers, counters = found["workers"], found["counters"]
    assert isinstance(capacities, Mapping)
    assert isinstance(use, Mapping)
    assert isinstance(workers, Sequence)
    assert isinstance(counters, Mapping)
    singles = [n for n, value in found.items() if n != "workers" and not isinstance(value, Mapping)]
    put_lines([(name, as_text(found[name])) for name in singles])
    put("\n")
    rows = [["table", "used", "capacity"]]
    rows += [[name, as_text(use.get(name)), as_text(value)] for name, value in capacities.items()]
    put_table([[row[0], "" if row[1] == NONE else row[1], row[2]] for row in rows])
    put("\n")
    put_lines([(name, as_text(found[name])) for name in (*RINGS, "archive")])
    put("\n")
    records = [worker for worker in workers if isinstance(worker, Mapping)]
    if records:
        put_table([list(records[0]), *([as_text(each) for each in w.values()] for w in records)])
        put("\n")
    rows = [["counter", "total"]]
    rows += [[name, as_text(total)] for name, total in counters.items() if total]
    put_table(rows)

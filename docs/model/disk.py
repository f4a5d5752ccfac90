"""A file of entries (batches) as processes that are killed, and a power cut, find it: what the system shows, what the
disk has, and which entries are still on their way.

A sync that fails leaves an entry shown that is not kept and not on its way any more, so the next sync has nothing to do
for it; from then on it may go at any time. One file stands for all segments; a checksum makes half an entry TORN.
"""
from itertools import product

from engine import Broken, locked

TORN = "torn"


class File:
    def __init__(self, size):
        self.size = size

    def remains(self, entry):
        """What half an entry may look like."""
        return (TORN,)

    def whole(self, entry):
        return entry not in (None, *self.remains(entry))

    def memory(self):
        return {"shown": (None,) * self.size, "kept": (None,) * self.size, "on its way": (), "syncs that fail": 0}

    def put(self, m, at, entry):
        shown = m["shown"]
        return {"shown": shown[:at] + (entry,) + shown[at + 1:], "on its way": tuple(sorted({*m["on its way"], at}))}

    def write(self, at, entry):
        """Killed in the middle it leaves half an entry, unless the same stood there before."""
        yield locked(f"begin to write {entry} at {at}", lambda m: [
            (None, {} if m["shown"][at] == entry else self.put(m, at, TORN))])
        yield locked(f"write {entry} at {at}", lambda m: [(None, self.put(m, at, entry))])

    def truncate(self, at):
        return locked(f"cut off at {at}", lambda m: [(None, self.put(m, at, None))])

    def sync(self):
        """Answers whether that was done."""
        def outcomes(m):
            kept = tuple(m["shown"][i] if i in m["on its way"] else m["kept"][i] for i in range(self.size))
            out = [(True, {"kept": kept, "on its way": ()})]
            if m["syncs that fail"]:
                out.append((False, {"on its way": (), "syncs that fail": m["syncs that fail"] - 1}))
            return out
        return locked("sync", outcomes)

    def end(self, entries):
        """How many good entries there are, and whether half a one follows; Broken where the start is refused."""
        good = 0
        while good < self.size and self.whole(entries[good]):
            good += 1
        if any(map(self.whole, entries[good:])):
            raise Broken("damage, and valid data behind it: the start is refused")
        return good, any(entry is not None for entry in entries[good:])

    def forget(self, m):
        """What is shown and not kept may go; [(label, changes)]."""
        shown = tuple(m["shown"][i] if i in m["on its way"] else m["kept"][i] for i in range(self.size))
        return [("**** the system drops what it has not kept", {"shown": shown})] * (shown != m["shown"])

    def power_cut(self, m):
        """Of what was on its way each entry is there, or not, or half: [(label, changes)]."""
        ends = [[(i, entry) for entry in dict.fromkeys((m["kept"][i], m["shown"][i], *self.remains(m["shown"][i])))]
                if m["kept"][i] != m["shown"][i] else [(i, m["kept"][i])] for i in m["on its way"]]
        out = []
        for survivors in product(*ends):
            kept = tuple(dict(survivors).get(i, m["kept"][i]) for i in range(self.size))
            out.append((f"**** power cut, {dict(survivors)}", {"shown": kept, "kept": kept, "on its way": ()}))
        return out

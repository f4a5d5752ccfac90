"""The words of a verdict on a server: what is checked, and what was found."""

from typing import Final, NamedTuple

CHECKS: Final = {
    "lost": "acknowledged transactions lost",
    "twice": "transactions executed twice",
    "unasked": "transactions that nobody asked for",
    "disagreeing": "answers that disagree with the log",
    "conserved": "totals not conserved",
    "negative": "negative balances",
    "serial": "balances not those of a serial replay",
    "real_time": "answers against the order of real time",
    "boards": "offers lost, taken twice, or left there",
    "messages_lost": "acknowledged chat messages lost",
    "events_missing": "room events missing without ROOM_GAP",
    "events_twice": "room events twice or out of order",
    "events_differing": "room events that differ between members",
    "files_lost": "announced files lost, or another than their hash",
    "files_twice": "files announced twice",
    "members": "joined and left events that do not alternate",
    "unexpected": "answers and pushes against the protocol",
    "unfinished": "runs that did not come to their end",
    "left": "processes, regions, ports or files left behind",
}
"""What is checked, by a short name: what is counted as wrong. All must be 0."""
NEED_END: Final = frozenset({"lost", "unasked", "conserved", "negative", "serial", "messages_lost"})
"""Those that can only be checked of a server that still runs when the load has ended."""


class Problem(NamedTuple):
    """A promise that was broken."""

    check: str
    text: str

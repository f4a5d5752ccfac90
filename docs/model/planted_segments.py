"""Segments on loan between a worker and the files process: scenarios, and a bug for each rule."""
from planting import of


@of("loan")
def lent(m, **more):
    return m.loan(**more)


HOLD = [
    (lent, dict(kills=0, late=1)),
    (lent, dict(kills=1, late=1)),
    (lent, dict(kills=2, late=2)),
    (lent, dict(kills=1, late=1, order="tso")),
]
STAYS = "given_up = True  # the segment stays lent"
PLANTED = [
    ("planted: a time-out ends the loan", lent, dict(kills=0, late=1), {
        STAYS: 'lent, given_up = NOBODY, True; yield from reset()'}),
    ("planted: a kill that was sent ends the loan", lent, dict(kills=1, late=1), {
        'if m["reaped"] >= lent:': 'if m["reaped"] >= lent or m["status", "files"] == "dying":'}),
    ("planted: semaphores stay as a dead files process left them", lent, dict(kills=1, late=1), {
        'yield locked("sem_init", lambda m: [(None, {"writable": 1, "readable": 0})])': "pass"}),
    ("planted: a files process takes what was meant for another one", lent, dict(kills=1, late=1), {
        "if message[1] != number:": "if False:"}),
    ("planted: a stale message is not known by its generation", lent, dict(kills=0, late=2), {
        STAYS: "lent, given_up = NOBODY, True; yield from reset()",
        'if generation != message[0] or state != "in progress":': "if False:"}),
]
DEEP = [(lent, dict(transfers=4, kills=2, late=2, order="tso"))]

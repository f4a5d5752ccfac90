"""Users, their passwords, and the operator's money: scenarios, and a bug for each rule."""
from planting import of


@of("users")
def disabled(m, **more):
    return m.users([[m.State(1)], [m.Login(1), m.Login(1)]], **more)


@of("users")
def enabled(m, **more):
    return m.users([[m.State(1), m.State(0)], [m.Login(1)]], **more)


@of("users")
def password(m, **more):
    return m.users([[m.Login(1), m.Password(2)], [m.Login(1), m.Login(2)]], **more)


@of("users")
def passwords(m, **more):
    """Two in a row, while somebody reads."""
    return m.users([[m.Password(2), m.Password(3)], [m.Login(1)]], **more)


@of("users")
def operator_pays(m, **more):
    """The same command on two workers: who asks has given up on the first one."""
    return m.users([[m.Pay(7, elsewhere=True), m.Pay(8)], [m.Pay(7)]], **more)


ENDS = "            if q.disabled:\n                yield from end_sessions(None)\n"
REDONE = "                    yield from apply(dead[0], record, txn)  # by the repair\n"
USER_HOLD = [
    (disabled, dict(kills=1, child_kills=1)),
    (enabled, dict(kills=1)),
    (password, dict(kills=1)),
    (passwords, dict(kills=1)),
    (password, dict(order="tso")),
    (operator_pays, dict(kills=2, child_kills=1)),
]
USER_PLANTED = [
    ("planted: LOGIN does not look whether the user may log in", disabled, {}, {
        "if not disabled and now == version:": "if now == version:"}),
    ("planted: LOGIN looks whether the user may before it has the lock", disabled, {}, {
        "        while not (yield from r.take(w, (), LOCK)):\n            pass\n        disabled, now = yield":
            "        disabled, now = yield",
        '"disabled", "version")\n':
            '"disabled", "version")\n        while not (yield from r.take(w, (), LOCK)):\n            pass\n'}),
    ("planted: who is disabled keeps the sessions", disabled, {}, {ENDS: ""}),
    ("planted: a repair does not carry out a change of a user", disabled, dict(kills=1), {REDONE: ""}),
    ("planted: a verifier is written over the one that counts", password, {}, {
        "copy = 1 - version % 2": "copy = version % 2"}),
    ("planted: the version is stored before the verifier", password, {}, {
        "                yield write((\"verifier\", copy, \"key\"), q.password)\n": "",
        "yield write(\"version\", txn * 2 + copy)\n":
            "yield write(\"version\", txn * 2 + copy)\n                yield write((\"verifier\", copy, \"key\"), q.password)\n"}),
    ("planted: a reader does not look at the version again", passwords, {}, {
        "if after == version:": "if True:"}),
    ("planted: versions come again", passwords, {}, {
        "txn * 2 + copy)": "copy)", "if version // 2 != txn:": "if True:"}),
    ("planted: LOGIN goes by the proof, whatever the verifier is now", password, {}, {
        "if not disabled and now == version:": "if not disabled:"}),
    ("planted: another password leaves the sessions of the one before", password, {}, {
        "            yield from end_sessions(w)\n": ""}),
    ("planted: a payment's key is not kept by a repair", operator_pays, dict(kills=1), {
        REDONE: '                    yield write("balance", record.balance)\n'}),
    ("planted: a key is looked for before the lock", operator_pays, {}, {
        "        while not (yield from r.take(w, (), LOCK)):\n            pass\n        executed, balance = yield":
            "        executed, balance = yield",
        '("executed", q.key), "balance")\n':
            '("executed", q.key), "balance")\n        while not (yield from r.take(w, (), LOCK)):\n            pass\n'}),
]
HOLD, PLANTED, DEEP = USER_HOLD, USER_PLANTED, []

"""Redis: the transfer as a Lua script, and pub/sub.

The script does what our server does for a TRANSFER: it takes the next transaction number, looks at
the payer's recorded outcomes, the funds and the payee, changes both balances, appends to a log of
bounded length, and records the outcome in the payer's window of 64. A bare one beside it only moves
the money. Redis runs one script at a time.
"""

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from bench.compare.contender import LOCALHOST, PAYLOAD, Counted, Figures, LoadFailed
from bench.compare.fanout import Dialect, Members, connect, receive, text_of
from bench.compare.programs import (
    Daemon,
    children_cpu_s,
    directory,
    find,
    free_port,
    output,
)
from bench.lab.process import CpuTime

SERVER: Final = ("redis-server", "redis-server")
BENCHMARK: Final = ("redis-benchmark", "redis-tools")
FUNDS: Final = 10**12
_CHANNEL: Final = b"room"
PERSISTENCE: Final = {
    "none": ("--save", "", "--appendonly", "no"),
    "always": ("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
}
# redis-benchmark has no numbers that increase: the request is numbered by the script, as the
# transaction is. A refused one uses up a number.
_BEGIN: Final = """\
local amount = tonumber(ARGV[1])
local txn = redis.call('INCR', 'txn')
"""
# Payer and payee are random, so they may be the same; no other refusal is to come.
_SAME: Final = """\
if KEYS[1] == KEYS[2] or amount <= 0 then
  return {0, 0}
end
"""
_PAY: Final = """\
if not payer or not payee then
  return redis.error_reply('NOT_FOUND')
end
if payer < amount then
  return redis.error_reply('INSUFFICIENT_FUNDS')
end
payer, payee = payer - amount, payee + amount
"""
_ANSWER: Final = "return {txn, payer}\n"
TRANSFER: Final = f"""\
{_BEGIN}\
local request = txn
local place = request % 64
local outcomes = 'outcomes:' .. KEYS[1]
local known = redis.call('HGET', outcomes, place)
if known then
  local id, outcome, balance = string.match(known, '(%d+) (%d+) (%d+)')
  if tonumber(id) == request then
    return {{tonumber(outcome), tonumber(balance)}}
  end
end
{_SAME}\
local balances = redis.call('MGET', KEYS[1], KEYS[2])
local payer, payee = tonumber(balances[1]), tonumber(balances[2])
{_PAY}\
redis.call('MSET', KEYS[1], payer, KEYS[2], payee)
redis.call('XADD', 'log', 'MAXLEN', '~', 65536, '*', 'txn', txn, 'from', KEYS[1], 'to', KEYS[2],
           'amount', amount, 'from_balance', payer, 'to_balance', payee)
redis.call('HSET', outcomes, place, request .. ' ' .. txn .. ' ' .. payer)
{_ANSWER}"""
# Two GET, two SET, one INCR: no log, and a request that is repeated is carried out twice.
BARE: Final = f"""\
{_BEGIN}\
{_SAME}\
local payer = tonumber(redis.call('GET', KEYS[1]))
local payee = tonumber(redis.call('GET', KEYS[2]))
{_PAY}\
redis.call('SET', KEYS[1], payer)
redis.call('SET', KEYS[2], payee)
{_ANSWER}"""


def account(number: int) -> str:
    """The key of an account, as redis-benchmark writes its random numbers."""
    return f"account:{number:012}"


class Resp:
    """A connection that speaks as much of the protocol as is needed here."""

    def __init__(self, port: int) -> None:
        self.sock = connect(port)
        self._file = self.sock.makefile("rb")

    def ask(self, *words: str | int) -> str:
        """One command; its answer as a string, items of an array with blanks between them.
        LoadFailed."""
        self.sock.sendall(command(*(str(word).encode() for word in words)))
        return self._answer(words)

    def _answer(self, words: Sequence[str | int]) -> str:
        line = self._file.readline().rstrip().decode()
        match line[:1]:
            case ":" | "+":
                return line[1:]
            case "$" if line != "$-1":
                size = int(line[1:])
                return self._file.read(size + 2)[:size].decode()
            case "*":
                return " ".join(self._answer(words) for _ in range(int(line[1:])))
        raise LoadFailed(f"redis: {words[0]} was answered {line or 'by nothing'}")

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def command(*words: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


class Server:
    """A redis-server in a temporary directory. Missing, LoadFailed."""

    def __init__(self, persistence: str) -> None:
        """persistence: a key of PERSISTENCE."""
        program = find(*SERVER)
        self.port = free_port()
        with ExitStack() as undo:
            made = directory(undo)
            words = ("--port", str(self.port), "--bind", LOCALHOST, "--dir", made)
            self._daemon = Daemon(
                [program, *words, *PERSISTENCE[persistence]], made, self._is_ready
            )
            undo.callback(self._daemon.close)
            self._undo = undo.pop_all()

    def _is_ready(self) -> bool:
        try:
            self.ask("PING")
        except OSError:
            return False
        return True

    def ask(self, *words: str | int) -> str:
        """One command on a connection of its own."""
        connection = Resp(self.port)
        try:
            return connection.ask(*words)
        finally:
            connection.close()

    def cpu(self) -> CpuTime:
        return self._daemon.cpu()

    def close(self) -> None:
        self._undo.close()


class Transfers(Counted):
    """Under redis-benchmark: payer and payee are random, of the same accounts."""

    def __init__(
        self, persistence: str, connections: int, accounts: int, script: str = TRANSFER
    ) -> None:
        """script: TRANSFER or BARE."""
        self._benchmark = find(*BENCHMARK)
        self._server = Server(persistence)
        self._connections, self._accounts = connections, accounts
        self._requests = 0  # all so far
        with ExitStack() as undo:
            undo.callback(self._server.close)
            admin = Resp(self._server.port)
            undo.callback(admin.close)
            for number in range(accounts):
                admin.ask("SET", account(number), FUNDS)
            admin.ask("SET", "txn", 0)
            self._script = admin.ask("SCRIPT", "LOAD", script)
            self._admin = admin
            self._undo = undo.pop_all()

    def run(self, in_flight: int, requests: int) -> Figures:
        # Every connection sends whole pipelines.
        step = self._connections * in_flight
        requests = -(-requests // step) * step
        random = account(0).replace("0" * 12, "__rand_int__")
        before, client = self._server.cpu(), children_cpu_s()
        told = output(
            [
                self._benchmark, "-h", LOCALHOST, "-p", str(self._server.port),
                "-c", str(self._connections), "-n", str(requests), "-P", str(in_flight),
                "-r", str(self._accounts), "--csv",
                "evalsha", self._script, "2", random, random, "1",
            ]
        )  # fmt: skip
        server = self._server.cpu().since(before)
        self._requests += requests
        self._check()
        row = parse_csv(told)
        return Figures(
            requests=requests,
            per_s=row["rps"],
            p50_ms=row["p50_latency_ms"],
            p99_ms=row["p99_latency_ms"],
            server_us=sum(server) / requests * 1e6,
            client_us=(children_cpu_s() - client) / requests * 1e6,
        )

    def _check(self) -> None:
        """It did all of it, and no money was made or lost."""
        ask = self._admin.ask
        done = int(ask("GET", "txn"))
        if done != self._requests:
            raise LoadFailed(f"redis: {done} transfers were done, of {self._requests}")
        total = sum(int(ask("GET", account(number))) for number in range(self._accounts))
        if total != FUNDS * self._accounts:
            raise LoadFailed(f"redis: the sum of the balances is {total}")

    def close(self) -> None:
        self._undo.close()


def parse_csv(told: str) -> dict[str, float]:
    """The one row of `redis-benchmark --csv`, but for its name. LoadFailed."""
    rows = list(csv.DictReader(io.StringIO(told)))
    try:
        (row,) = rows
        return {name: float(value) for name, value in row.items() if name != "test"}
    except (ValueError, TypeError):
        raise LoadFailed(f"redis-benchmark wrote what is not understood: {told!r}") from None


class PubSub(Dialect):
    """Each member has subscribed to one channel."""

    frame_len = len(command(b"message", _CHANNEL, bytes(PAYLOAD)))

    def __init__(self) -> None:
        self._server = Server("none")

    def cpu(self) -> CpuTime:
        return self._server.cpu()

    def open(self, members: int) -> Members:
        told = b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(_CHANNEL), _CHANNEL)
        sockets = []
        for _ in range(members):
            sock = connect(self._server.port)
            sockets.append(sock)
            sock.sendall(command(b"SUBSCRIBE", _CHANNEL))
            if receive(sock, len(told)) != told:
                raise LoadFailed("redis: SUBSCRIBE was not answered as it is known")
        publisher = connect(self._server.port)
        self._answer = b":%d\r\n" % members
        return Members(sockets, publisher)

    def message(self, serial: int) -> bytes:
        return command(b"PUBLISH", _CHANNEL, text_of(serial))

    def text(self, frame: bytes) -> bytes:
        return frame[-PAYLOAD - 2 : -2]

    def are_answers(self, data: bytes, messages: int) -> bool:
        return data == self._answer * messages

    def close(self) -> None:
        self._server.close()

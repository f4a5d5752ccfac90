"""PostgreSQL: the transfer as a function, under pgbench.

The function does what our server does for a TRANSFER: it looks for a recorded outcome of the
request, changes both balances under row locks that are taken in the order of the accounts, refuses
where funds do not suffice, and inserts a row that is the transaction log and the outcome in one.
"""

import math
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.compare.contender import LOCALHOST, Contender, Figures, LoadFailed, figures
from bench.compare.programs import (
    RUN_S,
    Daemon,
    children_cpu_s,
    directory,
    find,
    free_port,
    output,
    start,
    unprivileged,
)
from bench.lab.process import children_of, title

PACKAGE: Final = "postgresql"
FUNDS: Final = 10**12
FSYNC: Final = {
    # Nobody waits for the log, and it is as small as it can be.
    "off": ("fsync=off", "synchronous_commit=off", "full_page_writes=off"),
    "on": ("fsync=on", "synchronous_commit=on", "full_page_writes=on"),
}
_SPARE: Final = 20  # connections beside those of the load
_WARM_UP_S: Final = 1.0
_CONNECT_S: Final = 2.5  # in which all connections are made, with some to spare
_SETTLED_S: Final = 30.0
_POLL_S: Final = 0.02
# Beside FSYNC all is as it comes, but for what is needed to leave nothing behind.
_SETTINGS: Final = ("unix_socket_directories=", "dynamic_shared_memory_type=mmap")

SCHEMA: Final = """\
CREATE TABLE accounts (
  id integer PRIMARY KEY,
  balance bigint NOT NULL CHECK (balance >= 0)
) WITH (fillfactor = 50);
INSERT INTO accounts SELECT id, {funds} FROM generate_series(1, {accounts}) AS id;
CREATE TABLE txns (
  client bigint,
  req_id bigint,
  txn_id bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  from_user integer NOT NULL,
  to_user integer NOT NULL,
  amount bigint NOT NULL,
  from_balance bigint NOT NULL,
  to_balance bigint NOT NULL,
  PRIMARY KEY (client, req_id)
);
CREATE FUNCTION transfer(
  a_client bigint, a_req_id bigint, payer integer, payee integer, a_amount bigint,
  OUT o_txn_id bigint, OUT o_balance bigint
) LANGUAGE plpgsql AS $$
DECLARE
  other bigint;
BEGIN
  SELECT txn_id, from_balance INTO o_txn_id, o_balance
    FROM txns WHERE client = a_client AND req_id = a_req_id;
  IF FOUND THEN
    RETURN;
  END IF;
  IF payer < payee THEN
    UPDATE accounts SET balance = balance - a_amount
      WHERE id = payer AND balance >= a_amount RETURNING balance INTO o_balance;
    UPDATE accounts SET balance = balance + a_amount
      WHERE id = payee RETURNING balance INTO other;
  ELSE
    UPDATE accounts SET balance = balance + a_amount
      WHERE id = payee RETURNING balance INTO other;
    UPDATE accounts SET balance = balance - a_amount
      WHERE id = payer AND balance >= a_amount RETURNING balance INTO o_balance;
  END IF;
  IF other IS NULL OR o_balance IS NULL OR payer = payee OR a_amount <= 0 THEN
    RAISE EXCEPTION 'refused';
  END IF;
  INSERT INTO txns (client, req_id, from_user, to_user, amount, from_balance, to_balance)
    VALUES (a_client, a_req_id, payer, payee, a_amount, o_balance, other)
    RETURNING txn_id INTO o_txn_id;
END $$;
ANALYZE;
"""
_ONE: Final = """\
\\set req_id :req_id + 1
\\set other random(1, :accounts - 1)
\\set payee case when :other >= :payer then :other + 1 else :other end
{begin}SELECT transfer(:client, :req_id, :payer, :payee, 1);{end}
"""


def script(in_flight: int) -> str:
    """For pgbench. A pipeline is one transaction unless it says otherwise; here each transfer is
    one of its own, as with the others."""
    head = "\\set payer :client_id + 1\n\\set client :load * 1000000 + :client_id\n"
    if in_flight == 1:
        return head + _ONE.format(begin="", end="")
    one = _ONE.format(begin="BEGIN;\n", end="\nCOMMIT;")
    return f"{head}\\startpipeline\n{one * in_flight}\\endpipeline\n"


def parse_log(text: str, begin: float, end: float) -> list[float]:
    """The latencies in ms of what was completed from `begin` to `end`, in s since 1970, by the log
    of `pgbench --log`. LoadFailed."""
    found = []
    for line in text.splitlines():
        try:
            _, _, took_us, _, seconds, micros = line.split()[:6]
            if begin <= int(seconds) + int(micros) / 1e6 < end:
                found.append(int(took_us) / 1000)
        except ValueError:
            raise LoadFailed(f"pgbench logged what is not understood: {line!r}") from None
    return found


def parse_summary(text: str) -> int:
    """How often the script was run, by what pgbench writes at its end. LoadFailed where a run
    failed."""
    found = {}
    for line in text.splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            found[name] = value.split()[0].partition("/")[0]
    try:
        done = int(found["number of transactions actually processed"])
        failed = int(found["number of failed transactions"])
    except (KeyError, ValueError):
        raise LoadFailed(f"pgbench wrote what is not understood: {text!r}") from None
    if failed:
        raise LoadFailed(f"pgbench: {failed} transactions failed")
    return done


class Transfers(Contender):
    """A cluster in a temporary directory, under pgbench: the clients pay random accounts. Missing,
    LoadFailed."""

    def __init__(self, fsync: str, connections: int, accounts: int) -> None:
        """fsync: a key of FSYNC."""
        server = find("postgres", PACKAGE)
        initdb, self._psql, self._pgbench, ready = (
            find(program, PACKAGE, beside=server)
            for program in ("initdb", "psql", "pgbench", "pg_isready")
        )
        self._connections, self._accounts = connections, accounts
        self._loads = self._done = 0
        user = unprivileged("postgres", "nobody")
        port = free_port()
        self._where = ("-h", LOCALHOST, "-p", str(port), "-U", "postgres")
        with ExitStack() as undo:
            made = directory(undo, user)
            self._directory = directory(undo)
            data = f"{made}/data"
            words = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
            output([initdb, "-D", data, *words], user=user, directory=made)
            settings = (*_SETTINGS, f"max_connections={connections + _SPARE}", *FSYNC[fsync])
            self._daemon = Daemon(
                [
                    *(server, "-D", data, "-p", str(port), "-h", LOCALHOST),
                    *(word for each in settings for word in ("-c", each)),
                ],
                made,
                lambda: subprocess.run([ready, "-q", *self._where], check=False).returncode == 0,  # noqa: S603 - of PostgreSQL
                stop=signal.SIGINT,
                user=user,
            )
            undo.callback(self._daemon.close)
            self.ask(SCHEMA.format(funds=FUNDS, accounts=accounts))
            self._undo = undo.pop_all()

    def ask(self, sql: str) -> str:
        """What psql writes. LoadFailed."""
        return output(
            [
                self._psql,
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                *self._where,
                "-d",
                "postgres",
                "-c",
                sql,
            ]
        ).strip()

    def load(self, in_flight: int, seconds: float) -> Figures:
        """The connections are there before the measured time begins and after it ends, so that
        making them is no part of it."""
        self._loads += 1
        warm_up = min(seconds, _WARM_UP_S)
        whole = math.ceil(warm_up + seconds + _CONNECT_S)
        file = Path(self._directory) / "script"
        file.write_text(script(in_flight))
        client = children_cpu_s()
        with (
            ExitStack() as undo,
            (Path(self._directory) / "summary").open("w+") as told,
        ):
            process = start(
                [
                    self._pgbench, "-n", "-M", "prepared", "-f", str(file), *self._where,
                    "-c", str(self._connections), "-T", str(whole),
                    "-D", "req_id=0", "-D", f"accounts={self._accounts}",
                    "-D", f"load={self._loads}", "--log", "--log-prefix=log", "postgres",
                ],
                output=told.fileno(),
                directory=self._directory,
            )  # fmt: skip
            undo.callback(process.wait)
            undo.callback(process.kill)
            self._await(lambda: self._backends() >= self._connections, process)
            time.sleep(warm_up)
            begin, cpu = time.time(), self._daemon.cpu()
            time.sleep(seconds)
            end, server = time.time(), self._daemon.cpu().since(cpu)
            early = process.poll() is not None
            try:
                process.wait(RUN_S)
            except subprocess.TimeoutExpired:
                raise LoadFailed("pgbench does not end") from None
            told.seek(0)
            summary = told.read()
        if process.returncode or early:
            what = "failed" if process.returncode else "ended before the time was over"
            raise LoadFailed(f"pgbench {what}: {summary}")
        all_of_it = parse_summary(summary) * in_flight
        self._done += all_of_it
        self._await(lambda: not self._backends())
        self._check()
        log = Path(self._directory) / f"log.{process.pid}"
        latencies = parse_log(log.read_text(), begin, end)
        log.unlink()
        # pgbench's own time is known for all of its run only.
        each = (children_cpu_s() - client) / all_of_it
        requests = len(latencies) * in_flight
        return figures(requests, end - begin, latencies, server, each * requests)

    def _backends(self) -> int:
        """How many processes serve a connection: their titles tell from where."""
        origin = f" {LOCALHOST}(".encode()
        return sum(origin in title(child) for child in children_of(self._daemon.pid))

    @staticmethod
    def _await(is_so: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
        deadline = time.monotonic() + _SETTLED_S
        while not is_so():
            if process is not None and process.poll() is not None:
                return  # what it said is told
            if time.monotonic() > deadline:
                raise LoadFailed("postgres: its connections do not come or go in time")
            time.sleep(_POLL_S)

    def _check(self) -> None:
        """It did all of it, and no money was made or lost."""
        done = int(self.ask("SELECT count(*) FROM txns"))
        if done != self._done:
            raise LoadFailed(f"postgres: {done} transfers are logged, of {self._done}")
        total = int(self.ask("SELECT sum(balance) FROM accounts"))
        if total != FUNDS * self._accounts:
            raise LoadFailed(f"postgres: the sum of the balances is {total}")

    def close(self) -> None:
        self._undo.close()

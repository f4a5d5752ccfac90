"""`tradechat-admin user`: who may use a running server, and what they may do."""

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import Final

import orjson

from libcli.output import put
from libproto.messages import SALT_LEN
from libproto.scram import make_verifier
from server.admin.command import EXIT_GOOD, EXIT_NOT_AGREED, Command, NotDone, say
from server.admin.inspect import Time
from server.admin.ledger_cli import add_money, key_of, told
from server.admin.operate import Fields, ask
from server.admin.show import put_table
from server.admin.target import add_server
from server.admin.values import as_text
from server.region.records import UserRole

ROLES: Final = tuple(role.name.lower() for role in UserRole)


def _where(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def _one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", help="the username")
    _where(parser)


def _password(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="file whose first line is the password; else it is asked for at a terminal, or is the "
        "first line of standard input",
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _password(parser)
    parser.add_argument("--role", choices=ROLES, default="user", help="(default: user)")


def _role_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", help="the username")
    parser.add_argument("role", choices=ROLES)
    _where(parser)


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    parser.add_argument(
        "--pay-out", action="store_true", help="withdraw the balance first, whatever it is"
    )
    add_money(parser)
    parser.add_argument("--yes", action="store_true", help="do it without asking")


# ---- passwords


def _read_password(options: argparse.Namespace) -> str:
    """NotDone."""
    if options.password_file is not None:
        try:
            text = options.password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise NotDone(f"{options.password_file} cannot be read: {why}") from error
        password = text.split("\n")[0].rstrip("\r")
    elif sys.stdin.isatty():
        password = getpass.getpass(f"Password for {options.user}: ")
        if password != getpass.getpass("The same again: "):
            raise NotDone("the two are not the same: nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise NotDone("no password was given: nothing was changed")
    return str(password)


def _verifier(options: argparse.Namespace) -> Fields:
    """What the server keeps of a password. It never gets the password itself."""
    password, iterations = _read_password(options), ask(options, "about")["iterations"]
    made = make_verifier(password, os.urandom(SALT_LEN), iterations)
    return {
        "salt": made.salt.hex(),
        "iterations": made.iterations,
        "stored_key": made.stored_key.hex(),
        "server_key": made.server_key.hex(),
    }


# ---- the commands


def _say(options: argparse.Namespace, answer: Fields, text: str) -> int:
    put(orjson.dumps(answer).decode() + "\n" if options.json else f"{text}\n")
    return EXIT_GOOD


def _add(options: argparse.Namespace) -> int:
    answer = ask(
        options, "add", once=True, user=options.user, role=options.role, **_verifier(options)
    )
    return _say(options, answer, f"{options.user} is user {answer['user_id']}")


def _passwd(options: argparse.Namespace) -> int:
    answer = ask(options, "passwd", user=options.user, **_verifier(options))
    text = f"{options.user} has another password, and no session any more"
    return _say(options, answer, text)


def _state(act: str, is_so: str) -> Command:
    def run(options: argparse.Namespace) -> int:
        answer = ask(options, act, user=options.user)
        before = "" if answer["changed"] else ", as before"
        return _say(options, answer, f"{options.user} {is_so}{before}")

    about = {
        "disable": "end the sessions of a user, who cannot log in any more",
        "enable": "have a user who was disabled log in again",
    }[act]
    return Command(act, about, f"{about[0].upper()}{about[1:]}.", _one, run)


def _role(options: argparse.Namespace) -> int:
    answer = ask(options, "role", user=options.user, role=options.role)
    before = "" if answer["changed"] else ", as before"
    return _say(options, answer, f"{options.user} has the role {options.role}{before}")


def _delete(options: argparse.Namespace) -> int:
    if not options.yes and not _agreed(options):
        return EXIT_NOT_AGREED
    money = {"note": options.note, "key": key_of(options)} if options.pay_out else {}
    answer = ask(options, "delete", user=options.user, pay_out=options.pay_out, **money)
    text = f"{options.user} was deleted; name and id are never given again"
    if answer.get("balance") is not None:
        text += f"; {told(answer)}"
    return _say(options, answer, text)


def _agreed(options: argparse.Namespace) -> bool:
    if not sys.stdin.isatty():
        say("standard input is no terminal, so nobody can be asked: repeat it with --yes to agree")
        return False
    say(f"to delete {options.user} for good, type the name again:")
    return bool(sys.stdin.readline().strip() == options.user)


def _kick(options: argparse.Namespace) -> int:
    answer = ask(options, "kick", user=options.user)
    return _say(options, answer, f"{answer['sessions']} sessions of {options.user} have ended")


_COLUMNS: Final = ("user_id", "name", "role", "state", "balance", "online", "last_seen")


def _row(user: Fields) -> list[str]:
    values = user | {"last_seen": as_text(Time(user["last_seen"])), "online": str(user["online"])}
    return [str(values[column]) for column in _COLUMNS]


def _show(options: argparse.Namespace) -> int:
    user = ask(options, "show", user=options.user)["user"]
    values = user | {"last_seen": as_text(Time(user["last_seen"]))}
    width = max(map(len, values))
    return _say(options, user, "\n".join(f"{k:{width}}  {v}" for k, v in values.items()))


def _list(options: argparse.Namespace) -> int:
    after, rows = 0, [list(_COLUMNS)]
    while users := ask(options, "list", after=after)["users"]:
        after = users[-1]["user_id"]
        if options.json:
            for user in users:
                put(orjson.dumps(user).decode() + "\n")
        rows += map(_row, users)
    if not options.json:
        put_table(rows)
    return EXIT_GOOD


_EXAMPLES: Final = """\
examples:
  tradechat-admin user add alice --data data
  tradechat-admin user add till --role teller --password-file FILE --data data
  tradechat-admin user disable alice --data data
  tradechat-admin user delete alice --pay-out --note "account closed" --data data
"""

COMMAND: Final = Command(
    "user",
    "add, change and show the users of a running server",
    "A running server does it, and it lasts as a registration does. A password is never an"
    " argument, and the server is never given one: only what it keeps of it.",
    examples=_EXAMPLES,
    commands=(
        Command("add", "register a user", "Register a user, also where registration is closed.",
                _add_arguments, _add),
        Command("passwd", "give a user another password", "Give a user another password. All"
                " sessions of the user end.", _password, _passwd),
        _state("disable", "is disabled"),
        _state("enable", "may log in"),
        Command("delete", "delete a user for good", "Delete a user, whose balance is 0 or paid out"
                " by this command. Neither name nor id are ever given again.",
                _delete_arguments, _delete),
        Command("role", "say what a user may do", "Give a user a role: a teller (and an operator)"
                " may deposit and withdraw where the server's --deposits is tellers.",
                _role_arguments, _role),
        Command("list", "list the users", "List the users there are, those who were deleted too.",
                _where, _list),
        Command("show", "show one user", "Show one user.", _one, _show),
        Command("kick", "end the sessions of a user", "End the sessions of a user, who may log in"
                " again.", _one, _kick),
    ),
)  # fmt: skip

"""`tradechat-admin ledger`: money that the operator of a running server moves in and out."""

import argparse
import uuid
from typing import Final

import orjson

from libcli.output import put
from libproto.messages import MAX_BALANCE
from server.admin.command import EXIT_GOOD, Command, say
from server.admin.operate import Fields, ask
from server.admin.target import add_server, number

KEY_MAX: Final = 64


def add_money(parser: argparse.ArgumentParser) -> None:
    """Add --note and --key."""
    parser.add_argument(
        "--note", metavar="TEXT", default="", help="what it is for; it is kept with the transaction"
    )
    parser.add_argument(
        "--key",
        type=_key,
        help="of this command: asked for again with it, it is not done again, but told as recorded;"
        " without it one is made and printed (the newest 1,024 are known)",
    )


def _key(text: str) -> str:
    if not text or len(text) > KEY_MAX or not text.isprintable():
        raise argparse.ArgumentTypeError(f"a key is 1 to {KEY_MAX} characters")
    return text


def key_of(options: argparse.Namespace) -> str:
    """The key, or one that is made and printed before anything is asked for."""
    if options.key is None:
        options.key = uuid.uuid4().hex
        say(f"the key of this command is {options.key}: repeat it with --key {options.key}")
    return str(options.key)


def told(answer: Fields) -> str:
    """What became of the money."""
    before = " (it was done before)" if answer["recorded"] else ""
    return f"transaction {answer['txn_id']}, balance {answer['balance']}{before}"


def _amount(text: str) -> int:
    try:
        return number(1, MAX_BALANCE)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, in minor units: 1250 is 12.50") from None


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", help="the username")
    parser.add_argument(
        "amount",
        metavar="AMOUNT",
        type=_amount,
        help="minor units, as `inspect` and `export` show them: 1250 is 12.50",
    )
    add_money(parser)
    add_server(parser)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def _move(act: str) -> Command:
    def run(options: argparse.Namespace) -> int:
        answer = ask(
            options,
            act,
            user=options.user,
            amount=options.amount,
            note=options.note,
            key=key_of(options),
        )
        answer["key"] = options.key
        put(orjson.dumps(answer).decode() + "\n" if options.json else f"{told(answer)}\n")
        return EXIT_GOOD

    about = {
        "deposit": "give money to a user",
        "withdraw": "take money from a user",
    }[act]
    return Command(act, about, f"{about[0].upper()}{about[1:]}, exactly once.", _arguments, run)


COMMAND: Final = Command(
    "ledger",
    "move money in and out of a running server",
    "A running server does it, and it lasts as a payment does. Whoever may use this program may do"
    " it, whatever the server's --deposits says.",
    examples='examples:\n  tradechat-admin ledger deposit alice 1250 --note "cash" --data data\n'
    "  tradechat-admin ledger withdraw alice 1250 --key refund-17 --data data\n",
    commands=(_move("deposit"), _move("withdraw")),
)

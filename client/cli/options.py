"""What `tradechat-cli` is told: flags, environment and password.

A password is taken from a file, the environment or a prompt, never from a flag, which every user
of the machine could read in the list of processes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from client.chat.settings import CONNECTION, SettingError, config_file, read_file
from client.cli import file_commands, room_commands, trust
from client.cli.command import typed
from client.cli.commands import COMMANDS
from client.core.address import HOST, PORT, URL_VARIABLE, Address, read_url
from client.errors import BadUrl
from client.terminal import password
from client.terminal.arguments import read_place, read_seconds, read_user
from libcli import output
from libcli.arguments import EXIT_USAGE, Parser
from libcli.environment import sift
from libcli.output import EXIT_INTERRUPTED, EXIT_PIPE
from libproto import version_of

PROGRAM = "tradechat-cli"
GROUPS = room_commands.GROUPS | file_commands.GROUPS
CONFIG = "config.toml"
EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_UNKNOWN = 3
EXIT_UNREACHABLE = 4
EXIT_OUTPUT = 5
EXIT_IDENTITY = 6

TIMEOUT_S = 10.0
HOST_VARIABLE = "TRADECHAT_HOST"
PORT_VARIABLE = "TRADECHAT_PORT"
USER_VARIABLE = "TRADECHAT_USER"
PASSWORD_VARIABLE = "TRADECHAT_PASSWORD"  # noqa: S105 - its name
VARIABLES = (
    *(URL_VARIABLE, HOST_VARIABLE, PORT_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE),
    *(trust.ENCRYPT_VARIABLE, trust.PIN_VARIABLE),
)
LIKE_A_MISSPELLING = 0.7  # of one of these; the server's settings, which are many, are not


EXAMPLES = f"""\
examples:
  {PROGRAM} --user alice --register             register, then chat
  {PROGRAM} --user alice --room 7               chat, in room 7 to begin with
  {PROGRAM} --user alice pay bob 12.50          one payment
  {PROGRAM} --user alice pay bob 9 --key rent-5 the same, once, however often it is run
  {PROGRAM} --user alice txns --limit 3 --json  one JSON object a line, amounts in cents
  {PROGRAM} --url tradechat://alice@example.org balance
  {PROGRAM} --user alice listen 7 | grep bob
  {PROGRAM} --user alice board list gold        what is offered in the room of that name
  {PROGRAM} --user alice board take gold 17     paid, and taken off the board, in one step
  {PROGRAM} --user alice file put gold plan.pdf shared; `file get ID` fetches it
  printf '/join 7\\nhello\\n' | {PROGRAM} --user alice --password-file FILE

exit codes: {EXIT_OK} done; {EXIT_REFUSED} the server refused it, or a line of a script failed;
{EXIT_USAGE} usage; {EXIT_UNKNOWN} it is not known whether it was carried out: look before you
repeat it, or repeat it with the same --key; {EXIT_UNREACHABLE} no connection or no answer, and
nothing was carried out; {EXIT_OUTPUT} carried out, but the output could not be written;
{EXIT_IDENTITY} not the server that was seen or pinned before, or one that does not encrypt;
{EXIT_INTERRUPTED} Ctrl-C; {EXIT_PIPE} nobody reads the output any more.
With --json an error is one JSON object on standard error, with its exit_code, and status,
retry_after_ms and req_id where it has them.
"""


class CannotBegin(Exception):
    """What was given does not do; the text says why and what to do."""


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"{text[:40]!r} is no port: it is a number from 1 to 65535")
    return int(text)


def _read_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise ValueError(f"{text[:40]!r} is no timeout: it is a number of seconds, over 0")
    return seconds


def _add_options(parser: argparse.ArgumentParser, *, again: bool) -> None:
    """The options that may stand before a command and behind it. `again`: those behind, which say
    nothing where they are absent."""
    group = parser.add_argument_group("options of every command")

    def add(flag: str, about: str, default: object = None, **settings: Any) -> None:
        missing = argparse.SUPPRESS if again else default
        group.add_argument(flag, help=about, default=missing, **settings)

    port, timeout, user = typed(_read_port), typed(_read_timeout), typed(read_user)
    add(
        "--url",
        f"server and user, as tradechat://alice@host:7878 ({URL_VARIABLE}, which may have the "
        "password too)",
        type=typed(read_url),
        metavar="URL",
    )
    add("--host", f"where the server is ({HOST_VARIABLE}, or {HOST})", metavar="HOST")
    add("--port", f"its port ({PORT_VARIABLE}, or {PORT})", type=port, metavar="PORT")
    add("--user", f"username ({USER_VARIABLE})", type=user, metavar="NAME")
    add(
        "--password-file",
        f"file whose first line is the password; else {PASSWORD_VARIABLE}, else a prompt",
        metavar="FILE",
    )
    add("--register", "register the user first", default=False, action="store_true")
    add(
        "--timeout",
        f"seconds to wait for an answer ({TIMEOUT_S:g})",
        type=timeout,
        metavar="S",
    )
    trust.add_flags(add)
    add(
        "--give-up-after",
        "seconds without a connection after which a chat or `listen` ends (0: never)",
        default=0.0,
        type=typed(read_seconds),
        metavar="S",
    )
    add("--json", "one JSON object per line", default=False, action="store_true")


class JsonParser(Parser):
    """Says what is wrong with the arguments as --json has all errors said."""

    def error(self, message: str) -> NoReturn:
        fields = {"error": "UsageError", "exit_code": EXIT_USAGE}
        output.complain(json.dumps({**fields, "message": f"{self.prog}: {message}"}))
        sys.exit(EXIT_USAGE)


def make_parser(kind: type[Parser] = Parser) -> Parser:
    """Return the parser of the command line."""
    parser = kind(
        prog=PROGRAM,
        description="Chat in rooms and move money. Without a command: a chat, at a terminal or"
        " through pipes; /help in it lists what it can do.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version_of(PROGRAM))
    parser.add_argument(
        "--room",
        dest="join",
        type=typed(read_place),
        metavar="ROOM",
        help="join a room, by its number, or by its name, which opens it (chat)",
    )
    parser.add_argument(
        "--plain", action="store_true", help="line by line, also at a terminal (chat)"
    )
    parser.add_argument(
        "--stop-on-error",
        action="store_true",
        help="end at the first line that fails (chat through pipes)",
    )
    _add_options(parser, again=False)
    _add_commands(parser)
    return parser


def _add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands, and those below some of them, with the options that may stand behind."""
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    made: dict[str, argparse.ArgumentParser] = {}
    below: dict[str, Any] = {}

    def add(to: Any, name: str, about: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = to.add_parser(
            name, help=about, description=about, allow_abbrev=False
        )
        return parser

    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        if group and group not in below:
            if group not in made:
                made[group] = add(commands, group, GROUPS[group])
            below[group] = made[group].add_subparsers(
                title="commands", dest="action", metavar="COMMAND", required=group in GROUPS
            )
        parser = made[command.name] = add(below.get(group, commands), name, command.about)
        for argument in command.arguments:
            argument.add_to(parser)
        _add_options(parser, again=True)


def read_options(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """Return what flags, environment and the file of settings say. SystemExit comes from argparse.

    Variables that were not meant for this program are passed over, and said on standard error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(JsonParser if "--json" in given else Parser)
    options = parser.parse_args(arguments)
    if getattr(options, "action", None):
        options.command += f" {options.action}"
    kept = _kept(parser, environ)
    environ, passed_over = sift(environ, VARIABLES, cutoff=LIKE_A_MISSPELLING)
    for variable in passed_over:
        if variable.variable != PASSWORD_VARIABLE:  # an empty one is refused where it is read
            output.complain(f"{PROGRAM}: {variable}")

    def from_environment(name: str, variable: str, read: Callable[[str], Any], default: Any) -> Any:
        given = getattr(options, name)
        if given is not None:
            return given
        where, text = variable, environ.get(variable)
        if text is None and name in kept:
            where, text = f"{name} in {CONFIG}", str(kept[name])
        if text is None:
            return default
        try:
            return read(text)
        except ValueError as error:
            parser.error(f"{where}: {error}")

    address = _read_address(parser, options, environ)
    if address is None:
        options.host = from_environment("host", HOST_VARIABLE, str, HOST)
        options.port = from_environment("port", PORT_VARIABLE, _read_port, PORT)
    else:
        options.host, options.port = address.host, address.port
        options.user = options.user or address.username
    options.user = from_environment("user", USER_VARIABLE, read_user, None)
    settings = dict(address.settings) if address is not None else {}
    options.encrypt = options.encrypt or settings.get("encrypt")
    options.encrypt = from_environment("encrypt", trust.ENCRYPT_VARIABLE, trust.read_encrypt, None)
    options.pin = options.pin or settings.get("pin")
    options.pin = from_environment("pin", trust.PIN_VARIABLE, trust.read_fingerprint, None)
    options.trust = trust.arguments_of(options, settings)
    if options.timeout is None:
        options.timeout = settings.get("timeout_s", TIMEOUT_S)
    known = address is not None and options.user == address.username
    options.url_password = address.password if address is not None and known else None
    if options.user is None:
        parser.error(f"who are you? Give --user NAME or set {USER_VARIABLE}")
    if options.command is None and options.json:
        parser.error("--json goes with a command: the chat is for people")
    if options.command is not None and options.join is not None:
        parser.error("--room goes with the chat: a command names its room behind it")
    if options.command is not None and (options.plain or options.stop_on_error):
        parser.error("--plain and --stop-on-error go with the chat")
    options.register |= options.command == "register"
    return options


def _kept(parser: Parser, environ: Mapping[str, str]) -> dict[str, Any]:
    """What the file of settings says of the server, and who one is."""
    path = config_file(environ)
    if path is None:
        return {}
    try:
        table = read_file(path)
    except SettingError as error:
        parser.error(str(error))
    return {name: table[name] for name in CONNECTION if name in table}


def _read_address(
    parser: Parser, options: argparse.Namespace, environ: Mapping[str, str]
) -> Address | None:
    """Where the server is, if a URL says so. A flag that names the server goes before the variable
    as a whole: its user and password are for the server that it names."""
    by_flag = options.host is not None or options.port is not None
    if options.url is not None:
        if by_flag:
            parser.error("--url names the host and the port: give it without --host and --port")
        if options.url.password is not None:
            parser.error(
                "--url: leave the password out, every user of this machine can read it there; set "
                f"{URL_VARIABLE} or {PASSWORD_VARIABLE}, or give --password-file FILE"
            )
        url: Address = options.url
        return url
    if by_flag or URL_VARIABLE not in environ:
        return None
    for variable in (HOST_VARIABLE, PORT_VARIABLE):
        if variable in environ:
            parser.error(f"{URL_VARIABLE} and {variable} are both set: unset one of them")
    try:
        return read_url(environ[URL_VARIABLE], URL_VARIABLE)
    except BadUrl as error:
        parser.error(str(error))


def read_password(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return the password: of the file, the URL, or the environment, else it is asked for.
    CannotBegin."""
    if options.password_file is not None:
        try:
            with open(options.password_file, encoding="utf-8") as file:
                given = file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise CannotBegin(
                f"cannot read the password file {options.password_file}: {why}"
            ) from error
    elif options.url_password is not None:
        given = options.url_password
    elif PASSWORD_VARIABLE in environ:
        given = environ[PASSWORD_VARIABLE]
    else:
        given = _ask_password(f"Password for {options.user}: ")
        if options.register and given != _ask_password("The same again: "):
            raise CannotBegin("the two passwords differ: nothing was registered, start again")
    if not given:
        raise CannotBegin("the password is empty: choose one")
    if not _is_text(given):
        raise CannotBegin(f"{PASSWORD_VARIABLE} is not UTF-8 text")
    return given


def _is_text(word: str) -> bool:
    """Whether it can be encoded: of bytes that are not UTF-8, Python makes halves of pairs."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ask_password(prompt: str) -> str:
    try:
        return password.ask(prompt)
    except password.NoTerminal as error:
        raise CannotBegin(
            "there is no terminal to ask for the password: set "
            f"{PASSWORD_VARIABLE} or give --password-file FILE"
        ) from error
    except password.NoPassword as error:
        raise CannotBegin(str(error)) from error

"""What a server says to a person who has started it at a terminal: where its state is, how to
connect, how to stop. Not to a service manager or into a pipe: for these there is the log."""

import ipaddress
import os
from pathlib import Path
from typing import Final

from server.config import Settings, is_loopback

_DEFAULTS: Final = Settings.__dataclass_fields__


def first_screen(settings: Settings, port: int, pid: int) -> str:
    """The lines. port: on which it listens. pid: of the master."""
    at = "" if port == _DEFAULTS["port"].default else f" --port {port}"
    host = "" if _is_here(settings.host) else f" --host {settings.host}"
    if settings.require_encryption == "on" and _is_here(settings.host):
        host = " --encrypt require"  # which a client does by itself where it goes elsewhere
    register = " --register" if settings.registration == "open" else ""
    state = (
        "in memory only: it ends with the server (--durability none)"
        if settings.durability == "none"
        else f"{_shown(settings.data)} (--durability {settings.durability})"
    )
    rows = [
        ("state", state),
        ("connect", f"tradechat-cli{host}{at} --user NAME{register}"),
        ("look", f"tradechat-admin status{_named(settings, at)}"),
        ("stop", f"Ctrl-C, or kill {pid}: everything received is answered and saved first"),
    ]
    if settings.admin_port:
        name = "localhost" if _is_here(settings.admin_host) else settings.admin_host
        name = f"[{name}]" if ":" in name else name
        rows.insert(3, ("", f"http://{name}:{settings.admin_port}/ in a browser"))
    if not register:
        rows.insert(2, ("", "registration is closed: --registration open lets anyone register"))
    title = f"tradechat is serving on {settings.host} port {port}"
    return "\n".join([title, *(f"  {name:8} {text}" for name, text in rows)])


def _is_here(host: str) -> bool:
    """Does a client on this machine reach it without naming a host?"""
    try:
        return host in ("localhost", "127.0.0.1") or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return is_loopback(host)


def _shown(data: Path) -> str:
    """As it was named: it may be the person's own affair what is above that."""
    return str(data) if data.is_absolute() or str(data).startswith("..") else f"./{data}"


def _named(settings: Settings, at: str) -> str:
    return f" --name {settings.name}" if settings.name else at


def is_wanted() -> bool:
    """A person sees standard error."""
    return os.isatty(2)

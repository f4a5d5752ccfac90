"""The settings that bound what one user, one address, one connection can take from all others.

Where only the people of this machine can connect, most of them are off: a limit that nobody set
would hold up their own programs. Beyond loopback they are on.
"""

from dataclasses import dataclass

from server.config.spec import setting

LIMITS = "Limits of users, addresses and connections"

BEYOND_LOOPBACK: dict[str, int] = {
    "address_connections": 256,
    "rate_limit": 1000,
    "user_rate": 2000,
    "address_rate": 5000,
    "chat_rate": 10,
    "payment_rate": 10,
    "registrations": 600,
    "address_registrations": 20,
    "user_writes": 36_000,
    "user_sessions": 64,
    "session_rooms": 64,
}
"""Limits that are on where others than the people of this machine can connect."""


def _unlimited_here(name: str) -> str:
    return f"no limit where host is a loopback address, else {BEYOND_LOOPBACK[name]}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A part of Settings."""

    address_connections: int = setting(
        0,
        LIMITS,
        "connections at a time of one address, of IPv6 of one /64; one more is answered"
        " ERR_SERVER_BUSY",
        unit="connections",
        minimum=1,
        maximum=1 << 20,
        zero="no limit",
        default_text=_unlimited_here("address_connections"),
        reload=True,
    )
    unauthenticated_connections: int = setting(
        0,
        LIMITS,
        "connections at a time that are not logged in; where there are more, or no place for a"
        " new one, the oldest of the address with most of them is closed",
        unit="connections",
        minimum=1,
        maximum=1 << 20,
        zero="half of max_connections",
        reload=True,
    )
    rate_limit: int = setting(
        0,
        LIMITS,
        "requests of one session; one that sends more is read no faster, and answered "
        "ERR_SERVER_BUSY when it goes on for a second",
        unit="requests per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("rate_limit"),
        reload=True,
    )
    user_rate: int = setting(
        0,
        LIMITS,
        "requests of one user, of all sessions together, likewise",
        unit="requests per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("user_rate"),
        reload=True,
    )
    address_rate: int = setting(
        0,
        LIMITS,
        "requests of one address, of IPv6 of one /64, likewise; before login too",
        unit="requests per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("address_rate"),
        reload=True,
    )
    unauthenticated_rate: int = setting(
        50,
        LIMITS,
        "requests of a connection that is not logged in, likewise",
        unit="requests per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        reload=True,
    )
    chat_rate: int = setting(
        0,
        LIMITS,
        "messages, offers and payments with a note of one user in one room, and messages "
        "to one user; as many as in 5 s may come at once",
        unit="messages per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("chat_rate"),
        reload=True,
    )
    payment_rate: int = setting(
        0,
        LIMITS,
        "PAYMENT pushes of one payer to one payee; further payments are made, and only "
        "found in TXN_HISTORY",
        unit="pushes per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("payment_rate"),
        reload=True,
    )
    registrations: int = setting(
        0,
        LIMITS,
        "users that may register, where registration is open",
        unit="users per hour",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("registrations"),
        reload=True,
    )
    address_registrations: int = setting(
        0,
        LIMITS,
        "users that may register from one address, of IPv6 from one /64",
        unit="users per hour",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
        default_text=_unlimited_here("address_registrations"),
        reload=True,
    )
    user_writes: int = setting(
        0,
        LIMITS,
        "requests of one user that write to the disk: payments, messages, what is changed; as"
        " many as in an hour may come at once, the next ones are answered ERR_SERVER_BUSY",
        unit="requests per hour",
        minimum=1,
        maximum=1_000_000_000,
        zero="no limit",
        default_text=_unlimited_here("user_writes"),
        reload=True,
    )
    user_sessions: int = setting(
        0,
        LIMITS,
        "sessions of one user at a time; one more is answered ERR_SERVER_BUSY",
        unit="sessions",
        minimum=1,
        maximum=1 << 20,
        zero="no limit",
        default_text=_unlimited_here("user_sessions"),
        reload=True,
    )
    session_rooms: int = setting(
        0,
        LIMITS,
        "rooms that one session may be in; one more is answered ERR_LIMIT",
        unit="rooms",
        minimum=1,
        maximum=65536,
        zero="no limit",
        default_text=_unlimited_here("session_rooms"),
        reload=True,
    )
    user_clients: int = setting(
        256,
        LIMITS,
        "client records of one user; for one more the record that has been idle the "
        "longest is given away",
        unit="clients",
        minimum=1,
        maximum=1 << 20,
        zero="no limit",
        reload=True,
    )

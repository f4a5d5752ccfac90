"""Errors of the library in words: what happened, what it means, what to do."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from client.core.numbers import NUMBERED
from client.errors import (
    AlreadyExists,
    BadPacket,
    CallTimeout,
    ChecksumFailed,
    ClientError,
    ConnectionLost,
    IdentityChanged,
    InsufficientFunds,
    InternalError,
    KnownServersUnusable,
    LimitReached,
    NotEncrypted,
    NotFound,
    OutcomeUnknown,
    ProtocolViolation,
    ReloginFailed,
    ServerBusy,
    Superseded,
    Unauthorized,
)


class Complains(Protocol):
    """What shows errors to a person."""

    def complain(self, text: str) -> None: ...


# Class -> sentence, of what str() of the error or its detail says.
_SENTENCES: dict[type[ClientError], str] = {
    BadPacket: "the server refused this as not valid: {detail}",
    ChecksumFailed: "the request was damaged on its way and was not carried out: try again",
    Unauthorized: "the server refused this: {detail}",
    NotFound: "not found: {detail}",
    # The server's words hold minor units.
    InsufficientFunds: "the balance is too low for this amount; nothing was moved",
    ServerBusy: "the server is busy: {detail}; try again in {retry_s:g} s",
    OutcomeUnknown: "the server does not know any more: {detail}",
    AlreadyExists: "this username is taken: log in without --register, or choose another",
    LimitReached: "this would pass a limit: {detail}; nothing was changed",
    InternalError: "the server failed: {detail}; its log tells more",
    CallTimeout: "no answer in time: {error}; allow more with --timeout",
    ConnectionLost: "no connection: {error}; see that the server runs, then start again",
    Superseded: "{error}; see who else uses this user and client_id",
    ReloginFailed: "{error}; log in anew, or register",
    IdentityChanged: "{error}. If it was made anew on purpose: give --pin with the new "
    "fingerprint, or take the server's line out of the file",
    NotEncrypted: "nothing but the username was sent: the server does not encrypt, or somebody in "
    "between has seen to that; --encrypt off goes on without, for everybody on the way to read",
    KnownServersUnusable: "{error}; see --pin and --known-servers",
    ProtocolViolation: "not the server this user is registered with, or not of this version: "
    "{error}; check --host and --port",
}


def explain(error: ClientError) -> str:
    """Return one sentence on an error, and the notes added to it."""
    sentence = _SENTENCES.get(type(error), "{error}").format(
        error=error,
        detail=getattr(error, "detail", ""),
        retry_s=getattr(error, "retry_after_ms", 0) / 1000,
    )
    return "; ".join([sentence, *getattr(error, "__notes__", ())])


def is_unknown(error: ClientError) -> bool:
    """Whether it is not known if the request that failed so was carried out: it was sent, and no
    answer tells."""
    if isinstance(error, OutcomeUnknown):
        return True
    if isinstance(error, CallTimeout):
        return error.opcode in NUMBERED and bool(error.req_id)
    return isinstance(error, ConnectionLost) and bool(getattr(error, "req_id", 0))


@contextmanager
def hint(kind: type[ClientError], text: str) -> Iterator[None]:
    """Where an error of this kind comes out, add what to do about it."""
    try:
        yield
    except kind as error:
        error.add_note(text)
        raise


@contextmanager
def at_stake(what: str, check: str, screen: Complains) -> Iterator[None]:
    """Around one request that must not be made twice: where its outcome stays unknown, say so, and
    that `check` shows it; as a note to the error, or at once where the person gives up waiting."""
    unknown = (
        f"whether the {what} was carried out is unknown: look with {check} before you repeat it"
    )
    try:
        yield
    except (CallTimeout, ConnectionLost, OutcomeUnknown) as error:
        error.add_note(unknown if is_unknown(error) else f"the {what} was not sent")
        raise
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        screen.complain(unknown if getattr(error, "req_id", 0) else f"the {what} was not sent")
        raise

"""Every error of the library has a sentence, and lost money requests say what is unknown."""

import asyncio

import pytest

from client.errors import (
    CallTimeout,
    ClientError,
    ConnectionLost,
    InsufficientFunds,
    NotFound,
    OutcomeUnknown,
    ProtocolViolation,
    RequestFailed,
    ServerBusy,
    Unauthorized,
)
from client.terminal.advice import at_stake, explain, hint, is_unknown
from client.terminal.display import Screen
from libproto.messages import Opcode


def _made(kind: type[RequestFailed]) -> RequestFailed:
    return kind("the detail", 1500, 1)


@pytest.mark.parametrize("kind", RequestFailed.by_status.values())
def test_every_status_has_a_sentence_of_its_own(kind: type[RequestFailed]) -> None:
    sentence = explain(_made(kind))
    assert not sentence.startswith("ERR_")
    others = [explain(_made(other)) for other in RequestFailed.by_status.values()]
    assert others.count(sentence) == 1


@pytest.mark.parametrize("kind", [CallTimeout, ConnectionLost, ProtocolViolation])
def test_the_others_say_what_the_library_says(kind: type[ClientError]) -> None:
    sentence = explain(kind("that {0} happened"))
    assert "that {0} happened" in sentence
    assert sentence != "that {0} happened"


def test_when_to_try_again() -> None:
    assert explain(_made(ServerBusy)).endswith("try again in 1.5 s")


def test_minor_units_are_not_shown() -> None:
    assert "1250" not in explain(InsufficientFunds("balance 0 is below 1250"))


def test_a_hint_is_for_its_kind_only() -> None:
    with pytest.raises(Unauthorized) as refused, hint(Unauthorized, "look twice"):
        raise Unauthorized("no")
    assert explain(refused.value) == "the server refused this: no; look twice"
    with pytest.raises(NotFound) as missing, hint(Unauthorized, "look twice"):
        raise NotFound("no")
    assert "look twice" not in explain(missing.value)


def _sent(error: ClientError) -> ClientError:
    """The error of a numbered request that was sent."""
    error.req_id = 5
    return error


@pytest.mark.parametrize(
    "error",
    [CallTimeout("late", 5, Opcode.TRANSFER), _sent(ConnectionLost("gone")), OutcomeUnknown("")],
)
def test_an_outcome_that_is_unknown(error: ClientError) -> None:
    with pytest.raises(type(error)) as raised, at_stake("payment", "/txns", Screen()):
        raise error
    assert is_unknown(raised.value)
    assert explain(raised.value).endswith(
        "; whether the payment was carried out is unknown: look with /txns before you repeat it"
    )


@pytest.mark.parametrize(
    "error", [CallTimeout("late"), CallTimeout("", 5, Opcode.HELLO), ConnectionLost("gone")]
)
def test_what_was_not_sent_was_surely_not_carried_out(error: ClientError) -> None:
    with pytest.raises(type(error)) as raised, at_stake("payment", "/txns", Screen()):
        raise error
    assert not is_unknown(raised.value)
    assert explain(raised.value).endswith("; the payment was not sent")


def test_a_refusal_moved_nothing() -> None:
    with pytest.raises(InsufficientFunds) as raised, at_stake("payment", "/txns", Screen()):
        raise InsufficientFunds("")
    assert "unknown" not in explain(raised.value)


@pytest.mark.parametrize("was_sent", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_who_gives_up_waiting_is_told_at_once(
    kind: type[BaseException], was_sent: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given_up = kind()
    if was_sent:
        given_up.req_id = 5  # type: ignore[attr-defined]  # as the client does
    with pytest.raises(kind), at_stake("deposit", "/txns", Screen()):
        raise given_up
    written = capsys.readouterr()
    unknown = "whether the deposit was carried out is unknown" in written.err
    assert unknown == was_sent
    assert was_sent or written.err == "the deposit was not sent\n"
    assert not written.out

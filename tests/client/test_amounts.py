"""Amounts: exact both ways, and refused where they could be misread."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.amounts import AMOUNT_MAX, AmountError, format_amount, parse_amount

AMOUNTS = st.integers(0, AMOUNT_MAX)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("12.50", 1250),
        ("12.5", 1250),
        ("12", 1200),
        ("0.01", 1),
        ("0.1", 10),
        ("0", 0),
        ("007.70", 770),
        ("0.29", 29),  # a float makes 28 of it
        ("1.15", 115),
        ("184467440737095516.15", AMOUNT_MAX),
        ("0" * 5000 + "1", 100),
    ],
)
def test_an_amount_is_read_exactly(text: str, amount: int) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "12.", ".50", "12.505", "12.500", "+1", "-1", "-0", "1e3", "1E3", "0x10", "1_000",
        "1,000", "1,50", " 1", "1 ", "1\n", "1.5\n", "12.50 EUR", "1.2.3", "nan", "inf", "Infinity",
        "\u0661\u0662", "\uff11", "\u00b2", "1\u00a0000",
    ],
)  # fmt: skip
def test_what_could_be_misread_is_refused(text: str) -> None:
    with pytest.raises(AmountError, match=r"like 12\.50"):
        parse_amount(text)


@pytest.mark.parametrize(
    "text", ["184467440737095516.16", "184467440737095517", "9" * 41, "9" * 100_000]
)
def test_what_the_wire_cannot_carry_is_refused(text: str) -> None:
    with pytest.raises(AmountError, match=r"184467440737095516\.15"):
        parse_amount(text)


def test_a_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(AmountError) as refused:
        parse_amount("x" * 100_000)
    assert len(str(refused.value)) < 200


@given(AMOUNTS)
def test_what_is_written_is_read_back(amount: int) -> None:
    text = format_amount(amount)
    assert parse_amount(text) == amount
    assert Decimal(text) * 100 == amount
    assert text[-3] == "."


@given(st.text())
def test_any_text_is_an_amount_of_that_value_or_refused(text: str) -> None:
    try:
        amount = parse_amount(text)
    except AmountError:
        return
    assert Decimal(text) * 100 == amount


@pytest.mark.parametrize("value", [None, 5, 12.5, b"12.50"])
def test_an_amount_is_read_from_text_alone(value: Any) -> None:
    with pytest.raises(AmountError, match="it is read from text, a str"):
        parse_amount(value)


@pytest.mark.parametrize("value", [1.5, 12.0, "1250", None, True])
def test_only_whole_minor_units_are_written(value: Any) -> None:
    """Of a float there would be a text that looks like an amount, and is none."""
    with pytest.raises(AmountError, match="not an amount in minor units: that is an int"):
        format_amount(value)

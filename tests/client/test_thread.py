"""The thread that carries orders out: all that were given, whatever one of them raises."""

import asyncio
from collections.abc import Callable
from typing import Any

from client.io.thread import LoopThread, Ticket
from tests.client.peer import WAIT_S
from tests.client.turns import turn, until


def test_what_comes_of_orders_follows_all_of_them_in_the_same_turn() -> None:
    happened: list[str] = []
    told: list[Any] = []
    done = Ticket()

    def note(text: str) -> Callable[[], None]:
        return lambda: happened.append(text)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

        def first() -> None:
            happened.append("first")
            loop.call_soon(note("the turn after"))
            loop.call_soon(done.settle)
            thread.soon(note("what came of the first"))

        def fails() -> None:
            happened.append("fails")
            thread.soon(lambda: 1 // 0)
            raise KeyError

        for order in (first, fails, note("last")):
            thread.order(order)
        await until(lambda: done.settled)
        thread.soon(note("of no order"))
        await turn()

    thread = LoopThread(main, "tradechat-test")
    thread.start()
    assert thread.join(WAIT_S)
    of_orders = ["first", "fails", "last", "what came of the first"]
    assert happened == [*of_orders, "the turn after", "of no order"]
    assert [type(error) for error in told] == [KeyError, ZeroDivisionError]
    assert not thread.order(note("too late"))


def test_an_order_given_early_finds_that_main_has_begun() -> None:
    """As one that ends what main begins: before that it would find nothing to end."""
    begun: list[int] = []
    found: list[bool] = []
    ended = Ticket()

    async def main() -> None:
        begun.append(1)
        await until(lambda: ended.settled)

    def end() -> None:
        found.append(bool(begun))
        ended.settle()

    thread = LoopThread(main, "tradechat-test")
    assert not thread.order(end), "nobody is there to do it"
    thread.start()
    thread.order(end)
    assert thread.join(WAIT_S)
    assert found == [True]

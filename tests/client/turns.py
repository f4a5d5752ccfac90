"""Waiting on a loop, without time: as many of its turns as it takes."""

import asyncio
from collections.abc import Callable

from tests.client.peer import WAIT_S


async def turn() -> None:
    """Let everything that is ready run once."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Turn until it holds. TimeoutError after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await turn()

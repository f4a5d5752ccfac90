"""Does what the core's generators ask for, step by step: each is sent the result, or the error."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from client.errors import ClientError

R = TypeVar("R")
S = TypeVar("S")


def follow(steps: Generator[S, Any, R], do: Callable[[S], Any]) -> R:
    """Until it returns. ClientError is for the generator to catch."""
    proceed: Callable[[], S] = partial(next, steps)
    with closing(steps):
        while True:
            try:
                step = proceed()
            except StopIteration as done:
                result: R = done.value
                return result
            try:
                proceed = partial(steps.send, do(step))
            except ClientError as error:
                proceed = partial(steps.throw, error)


async def follow_async(steps: Generator[S, Any, R], do: Callable[[S], Awaitable[Any]]) -> R:
    """The same, where each step is awaited."""
    proceed: Callable[[], S] = partial(next, steps)
    with closing(steps):
        while True:
            try:
                step = proceed()
            except StopIteration as done:
                result: R = done.value
                return result
            try:
                proceed = partial(steps.send, await do(step))
            except ClientError as error:
                proceed = partial(steps.throw, error)

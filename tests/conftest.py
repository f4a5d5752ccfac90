"""What holds for every test: nothing may be left behind, and Hypothesis repeats itself in CI. The
form of our modules is chosen before any of them is imported.
"""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.helpers import form, leaks  # isort: skip - the form comes first
from tests.helpers.server import server, start_server

__all__ = ["server", "start_server"]  # fixtures

form.check()

# A script's background job ignores these, nohup's the last: what a test starts would inherit that.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# No deadline per example: on a loaded machine it tells of the load. In CI the examples are a
# function of the test alone, so that a red run is red again; elsewhere each run looks at new ones.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tradechat-cli keeps between runs is not that of whoever runs the tests; and servers have
    no admin port but where a test gives them one, as the default is the same for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADECHAT_ADMIN_PORT", "0")
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing() -> Iterator[None]:
    """The check for what fixtures of a module or of the session started: it is over after them."""
    leaks.begin()
    leaks.adopt_orphans()
    with leaks.watch():
        yield


@pytest.fixture(autouse=True)
def _leaves_nothing(_session_leaves_nothing: None) -> Iterator[None]:
    """Each test ends its processes, removes its entries of /dev/shm and closes what it opened."""
    with leaks.watch():
        yield

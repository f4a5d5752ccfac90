"""Clients of a tradechat server: `Client` blocks, `AsyncClient` is for asyncio.

This is the one name to import, in a checkout and installed: it has what `client` exports.
"""

from client import *  # noqa: F403 - its `__all__` is the one list of what users may rely on
from client import __all__ as __all__
from libproto import __version__ as __version__

"""Clients of a tradechat server: `Client` blocks, `AsyncClient` is for asyncio.

This is the one name to import, in a checkout and installed: it has what `client` exports.
"""

# What is exported is imported when it is first asked for: where tradechat is installed, our
# programs are below this name, and need not wait for a client.
TYPE_CHECKING = False  # as type checkers know it, without the import of `typing`
if TYPE_CHECKING:
    from client import *  # noqa: F403 - its `__all__` is the one list of what users may rely on
    from client import __all__ as __all__
    from libproto import __version__ as __version__
else:

    def __getattr__(name):
        """What is exported; from then on, the module has all of it (PEP 562)."""
        if not name.startswith("__") or name in ("__all__", "__version__"):
            import client
            from libproto import __version__

            exported = {each: getattr(client, each) for each in client.__all__}
            globals().update(exported, __all__=client.__all__, __version__=__version__)
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return [*__getattr__("__all__"), "__all__", "__version__"]

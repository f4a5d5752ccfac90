"""libproto: the tradechat wire protocol, without any input or output."""

from libproto.form import FORM

__version__ = "0.1.0"


def version_of(program: str) -> str:
    """What a program tells of itself for `--version`."""
    return f"{program} {__version__} ({FORM.name})"

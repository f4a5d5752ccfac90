"""libproto: the tradechat wire protocol, without any input or output."""

__version__ = "0.1.0"

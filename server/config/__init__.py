"""The settings of the server: the table (settings.py), and where values come from (sources.py)."""

from server.config.settings import RULES, SETTINGS, WORKERS_MAX, Settings, is_loopback
from server.config.sources import (
    ACTIONS,
    CONFIG_ABOUT,
    PROGRAM,
    Action,
    Configuration,
    Loaded,
    Reloaded,
    effective,
    load,
)
from server.config.spec import ConfigError, Setting

__all__ = [
    "ACTIONS",
    "CONFIG_ABOUT",
    "PROGRAM",
    "RULES",
    "SETTINGS",
    "WORKERS_MAX",
    "Action",
    "ConfigError",
    "Configuration",
    "Loaded",
    "Reloaded",
    "Setting",
    "Settings",
    "effective",
    "is_loopback",
    "load",
]

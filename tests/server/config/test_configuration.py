"""Settings of a running server that are read again."""

from dataclasses import replace

import pytest

from server.config import SETTINGS, ConfigError, Configuration, Settings

BEFORE = Settings(workers=2, rooms=8, heartbeat=15)


def test_what_may_change_does_and_the_rest_waits() -> None:
    now = replace(BEFORE, workers=3, rooms=9, heartbeat=7, sources=None)
    running = replace(BEFORE, port=0, sources=None)  # with what was made of them meanwhile
    configuration = Configuration(BEFORE, lambda: now)
    found = configuration.reread(running)
    assert (sorted(found.changed), list(found.kept)) == (["heartbeat", "workers"], ["rooms"])
    assert (found.settings.workers, found.settings.heartbeat) == (3, 7)
    assert (found.settings.rooms, found.settings.port) == (8, 0)
    again = configuration.reread(found.settings)
    assert (again.changed, again.kept) == ([], []), "what waits is told once"


def test_what_is_wrong_changes_nothing() -> None:
    wrong = True

    def load() -> Settings:
        if wrong:
            raise ConfigError("no")
        return replace(BEFORE, heartbeat=7, sources=None)

    configuration = Configuration(BEFORE, load)
    with pytest.raises(ConfigError, match="no"):
        configuration.reread(BEFORE)
    wrong = False
    assert configuration.reread(BEFORE).changed == ["heartbeat"]


def test_there_are_no_more_workers_than_were_reserved() -> None:
    """At the start, whatever the settings would reserve now."""
    for now in (
        replace(BEFORE, workers=5, sources=None),
        replace(BEFORE, workers=64, sources=None),
    ):
        with pytest.raises(ConfigError, match="it must not be more than 4"):
            Configuration(BEFORE, lambda now=now: now).reread(BEFORE)  # type: ignore[misc] # bound now
    most = replace(BEFORE, workers=4, sources=None)
    found = Configuration(BEFORE, lambda: most).reread(BEFORE)
    assert (found.settings.workers, found.settings.seats) == (4, 4)


def test_which_settings_change() -> None:
    """Those that workers and the master alone look at, and only after the start."""
    assert {row.name for row in SETTINGS if row.spec.reload} == {
        "workers",
        "address_connections",
        "unauthenticated_connections",
        "registration",
        "require_encryption",
        "scram_iterations",
        "login_failures",
        "max_balance",
        "deposits",
        "min_transfer",
        "max_transfer",
        "board_entries",
        "heartbeat",
        "idle_timeout",
        "handshake_timeout",
        "drain_timeout",
        "worker_timeout",
        "rate_limit",
        "user_rate",
        "address_rate",
        "unauthenticated_rate",
        "chat_rate",
        "payment_rate",
        "registrations",
        "address_registrations",
        "user_writes",
        "user_sessions",
        "session_rooms",
        "user_clients",
        "lag_limit",
        "queue_limit",
        "shed",
        "stats_interval",
    }

"""libcli.environment: variables that platforms set, empty ones, misspelt ones."""

import re
from pathlib import Path

import pytest

from libcli.environment import EVERY_PROGRAMS, PREFIX, sift
from server.config import SETTINGS

ROOT = Path(__file__).parents[2]
READ = {f"{PREFIX}{name}" for name in ("HOST", "PORT", "NAME", "WORKERS")}

# As kubelet sets them for the services `tradechat` and `tradechat-web`, the first with named ports.
KUBERNETES = {
    "TRADECHAT_SERVICE_HOST": "10.96.0.12",
    "TRADECHAT_SERVICE_PORT": "7878",
    "TRADECHAT_SERVICE_PORT_BINARY": "7878",
    "TRADECHAT_PORT": "tcp://10.96.0.12:7878",
    "TRADECHAT_PORT_7878_TCP": "tcp://10.96.0.12:7878",
    "TRADECHAT_PORT_7878_TCP_PROTO": "tcp",
    "TRADECHAT_PORT_7878_TCP_PORT": "7878",
    "TRADECHAT_PORT_7878_TCP_ADDR": "10.96.0.12",
    "TRADECHAT_PORT_53_UDP": "udp://10.96.0.12:53",
    "TRADECHAT_WEB_SERVICE_HOST": "10.96.0.13",
    "TRADECHAT_WEB_SERVICE_PORT": "80",
    "TRADECHAT_WEB_PORT": "tcp://10.96.0.13:80",
    "TRADECHAT_WEB_PORT_80_TCP": "tcp://10.96.0.13:80",
    "TRADECHAT_WEB_PORT_80_TCP_ADDR": "10.96.0.13",
}
# As `docker run --link tradechat` does.
DOCKER = {
    "TRADECHAT_NAME": "/web/tradechat",
    "TRADECHAT_PORT": "tcp://172.17.0.5:7878",
    "TRADECHAT_PORT_7878_TCP": "tcp://172.17.0.5:7878",
    "TRADECHAT_ENV_PATH": "/usr/bin",
}


def test_what_kubernetes_sets_is_passed_over() -> None:
    """Only the one that would be taken for a setting is worth a word."""
    used, passed_over = sift({**KUBERNETES, "TRADECHAT_WORKERS": "3"}, READ)
    assert used == {"TRADECHAT_WORKERS": "3"}
    (told,) = passed_over
    assert told.variable == "TRADECHAT_PORT"
    assert "platform" in told.reason
    assert "enableServiceLinks" in told.advice


def test_what_docker_links_set_is_passed_over() -> None:
    used, passed_over = sift(DOCKER, READ)
    assert used == {}
    assert {told.variable for told in passed_over} == {"TRADECHAT_NAME", "TRADECHAT_PORT"}


@pytest.mark.parametrize("value", ["7878", "0", "-1", "nonsense", "http", "tcp", "tcp://"])
def test_any_other_port_is_taken(value: str) -> None:
    """Whether it is valid, the program says."""
    assert sift({"TRADECHAT_PORT": value}, READ) == ({"TRADECHAT_PORT": value}, [])


def test_a_name_with_a_slash_is_taken_where_nothing_is_linked() -> None:
    assert sift({"TRADECHAT_NAME": "/a/b"}, READ) == ({"TRADECHAT_NAME": "/a/b"}, [])


@pytest.mark.parametrize("variable", sorted(READ))
def test_an_empty_variable_is_passed_over(variable: str) -> None:
    used, (told,) = sift({variable: ""}, READ)
    assert used == {}
    assert (told.variable, told.reason) == (variable, "it is empty")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [("TRADECHAT_WORKRES", "WORKERS"), ("Tradechat_Host", "HOST"), ("TRADECHAT_", "")],
)
def test_a_misspelt_one_is_told_without_its_value(variable: str, nearest: str) -> None:
    used, passed_over = sift({variable: "secret"}, READ)
    assert used == {}
    (told,) = passed_over
    assert told.variable == variable
    assert "secret" not in str(told)
    assert f"{PREFIX}{nearest}" in told.advice


def test_of_unlike_names_a_program_that_reads_few_says_nothing() -> None:
    for row in SETTINGS:
        assert (
            sift(
                {row.variable: "1"},
                {"TRADECHAT_HOST", "TRADECHAT_PORT", "TRADECHAT_USER", "TRADECHAT_PASSWORD"},
                cutoff=0.7,
            )[1]
            == []
        )


def test_variables_of_other_families_are_none_of_ours() -> None:
    assert sift({"TRADECHATTER_PORT": "1", "PORT": "2", "LANG": "C"}, READ) == ({}, [])


def test_every_variable_of_the_tree_is_known() -> None:
    """One that a program reads, and the table does not have, would be called misspelt."""
    known = {row.variable for row in SETTINGS} | EVERY_PROGRAMS | {f"{PREFIX}CONFIG"}
    found = set()
    for package in ("libnet", "liblog", "libproto", "client", "server", "bench", "tradechat"):
        for path in (ROOT / package).rglob("*.py"):
            found |= set(re.findall(r"[\"']TRADECHAT_([A-Z_]+)[\"']", path.read_text()))
    assert {f"{PREFIX}{name}" for name in found} <= known
    assert len(found) > 3

"""Addresses of the machine that the tests run on."""

import socket

import pytest


def own_address() -> str:
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent by that
            return str(probe.getsockname()[0])
        except OSError:
            pytest.skip("this machine has no other address than those of loopback")

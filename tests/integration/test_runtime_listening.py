"""The supervisor's listening socket and the URL it is reached by."""

import socket

import pytest

from console.runtime.failure import CommandFailed
from console.runtime.supervisor import base_url, listening

pytestmark = pytest.mark.integration


def test_port_0_takes_a_free_one_and_names_it():
    with listening("127.0.0.1", 0) as listener:
        url = base_url("127.0.0.1", listener)

        assert url == f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert not url.endswith(":0")


@pytest.mark.parametrize("listens", [True, False])
def test_a_port_somebody_has_is_refused(listens):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if listens:
            holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(CommandFailed, match=f"port {port} on 127.0.0.1 is already in use"):
            listening("127.0.0.1", port).__enter__()


def test_everywhere_is_reached_on_loopback():
    with listening("0.0.0.0", 0) as listener:
        assert base_url("0.0.0.0", listener).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["a..b", "203.0.113.1"])
def test_an_address_that_is_not_ours_is_refused(host):
    with pytest.raises(CommandFailed, match=host):
        listening(host, 0).__enter__()

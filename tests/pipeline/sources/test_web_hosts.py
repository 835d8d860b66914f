"""A host that fails is given up after so many failures in a row, or so much time."""

from __future__ import annotations

import threading

import pytest

from pipeline.rejection import Rejected
from pipeline.sources.web_hosts import Hosts, hosts_of


def is_given_up(hosts: Hosts, host: str) -> bool:
    try:
        hosts.check(host)
    except Rejected:
        return True
    return False


def test_failures_in_a_row():
    hosts = Hosts(3, 1000.0)
    for outcome in (True, True, None, True, True, False, False, False):
        if outcome is None:
            hosts.succeeded("a:80")
        else:
            hosts.lost("a:80", 1.0, failed=outcome)
        assert not is_given_up(hosts, "a:80")
    hosts.lost("a:80", 1.0, failed=True)
    assert is_given_up(hosts, "a:80")
    assert not is_given_up(hosts, "b:80")
    hosts.succeeded("a:80")
    assert is_given_up(hosts, "a:80"), "for the run"


def test_time_that_is_lost_in_all():
    hosts = Hosts(1000, 10.0)
    for _ in range(5):
        hosts.lost("a:80", 2.0, failed=False)
        hosts.succeeded("a:80")
        assert not is_given_up(hosts, "a:80")
    hosts.lost("a:80", 0.5, failed=False)
    with pytest.raises(Rejected, match=r"a:80 is given up: over 10 s were lost on it \(web-host-timeout"):
        hosts.check("a:80")


def test_many_threads_count_together():
    hosts = Hosts(400, 1e9)

    def fail() -> None:
        for _ in range(100):
            hosts.lost("a:80", 1.0, failed=True)

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_given_up(hosts, "a:80")


def test_a_run_has_its_own():
    assert hosts_of("one", 3, 1.0) is hosts_of("one", 3, 1.0)
    assert hosts_of("one", 3, 1.0) is not hosts_of("two", 3, 1.0)
    assert hosts_of("", 3, 1.0) is not hosts_of("", 3, 1.0)

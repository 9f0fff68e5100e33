"""As many callers may wait as the service promises, whatever the shell that started it allows by default."""

from __future__ import annotations

import resource

import pytest

from services.process import allow_connections


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_to_what_waiting_callers_need_and_no_further_than_it_may(limits):
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))

    allow_connections()

    soft, now_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert now_hard == hard
    assert soft == (16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384))


def test_a_limit_that_is_higher_stays(limits):
    _, hard = limits
    if hard != resource.RLIM_INFINITY and hard < 20_000:
        pytest.skip("the limit cannot be raised here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, hard))

    allow_connections()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (20_000, hard)

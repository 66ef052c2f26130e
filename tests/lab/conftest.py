"""Fixtures of the lab's tests: hosts with kernels of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.labs import needs
from deploy.labs.host import Host
from deploy.labs.one import one_host
from deploy.labs.problem import LabError


@pytest.fixture(scope="session")
def solo() -> Iterator[Host]:
    """One booted host for all tests of the session that ask for it."""
    try:
        needs.check()
    except LabError as error:
        pytest.skip(str(error))
    with one_host() as host:
        yield host

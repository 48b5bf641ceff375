"""Fixtures that tests of several folders share."""

import signal

import pytest

from tests.support.workspaces import Workspace

# A shell ignores SIGINT for its background jobs, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Make a workspace in a new folder."""
    return lambda **changes: Workspace(tmp_path_factory.mktemp("workspace"), **changes)

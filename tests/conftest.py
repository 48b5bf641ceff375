"""Fixtures that tests of several folders share."""

import pytest

from tests.support.workspaces import Workspace


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Make a workspace in a new folder."""
    return lambda **changes: Workspace(tmp_path_factory.mktemp("workspace"), **changes)

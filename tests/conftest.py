"""Fixtures that tests of several folders share."""

import shutil
import signal

import pytest

from tests.support.workspaces import Workspace

# A shell ignores SIGINT for its background jobs, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Start Chromium; skip where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser found: install chromium to test pages in it")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Make a workspace in a new folder."""
    return lambda **changes: Workspace(tmp_path_factory.mktemp("workspace"), **changes)

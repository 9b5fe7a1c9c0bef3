"""For every test: patience with examples on a busy machine, and a log as the last one found it."""

import logging

import pytest
from hypothesis import settings

settings.register_profile("overlay", deadline=None)
settings.load_profile("overlay")


@pytest.fixture(autouse=True)
def _log_as_before():
    """A command line that a test runs sets up the product's log, for its own standard error."""
    logger = logging.getLogger("overlay")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)

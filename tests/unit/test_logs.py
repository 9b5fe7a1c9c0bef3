import enum
import io
import ipaddress
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.logs import (
    FOREIGN_LOGGERS,
    EventLog,
    PeerTriggeredFilter,
    ScrubbingFormatter,
    Word,
    configure_logging,
)
from overlay.sensitive import SecretBytes, Sensitive


class State(enum.Enum):
    OPEN = "192.0.2.1 is open"


@pytest.fixture
def stream():
    """What a configured log prints; the loggers are as before afterwards."""
    names = ["overlay", *FOREIGN_LOGGERS]
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, each.propagate, list(each.handlers)) for each in loggers]
    printed = io.StringIO()
    configure_logging("info", printed)
    yield printed
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


def test_event_is_its_name_and_its_fields(stream):
    EventLog("overlay.test").info(
        "node.up", contacts=3, joined=True, state=State.OPEN, mode=Word("x")
    )
    assert stream.getvalue().endswith(
        "INFO overlay.test: node.up contacts=3 joined=True state=open mode=x\n"
    )


@pytest.mark.parametrize(
    "value",
    [
        "192.0.2.7",
        b"\xc0\x00\x02\x07",
        Endpoint("192.0.2.7", 4500),
        ipaddress.ip_address("192.0.2.7"),
        Sensitive(7),
        SecretBytes(b"k" * 32),
        ["192.0.2.7"],
        {"a": "192.0.2.7"},
    ],
)
def test_value_that_could_name_a_peer_is_scrubbed(stream, value):
    EventLog("overlay.test").warning("link.failed", peer=value)
    assert stream.getvalue().endswith("link.failed peer=[scrubbed]\n")


def test_cause_is_told_by_its_type_alone(stream):
    EventLog("overlay.test").error("node.failed", cause=ValueError("192.0.2.7"))
    assert stream.getvalue().endswith("node.failed cause=ValueError\n")


def test_debug_is_off_unless_asked_for(stream):
    EventLog("overlay.test").debug("dht.sent")
    assert stream.getvalue() == ""
    configure_logging("debug", stream)
    EventLog("overlay.test").debug("dht.sent", bytes=9)
    assert stream.getvalue().count("dht.sent bytes=9") == 1


@pytest.mark.parametrize("name", FOREIGN_LOGGERS)
def test_libraries_that_print_peers_are_silent(stream, name, caplog):
    for logger in (logging.getLogger(name), logging.getLogger(f"{name}.protocol")):
        logger.critical("got reply from 192.0.2.7")
    assert stream.getvalue() == ""
    assert caplog.records == []


def test_addresses_in_the_words_of_others_are_scrubbed(stream):
    try:
        raise OSError("cannot reach 192.0.2.7 or [fd6d:6978::1]:4500")
    except OSError:
        logging.getLogger("overlay.test").exception("from 10.1.2.3, key %s", "ab" * 20)
    printed = stream.getvalue()
    assert "Traceback" in printed
    for leaked in ("192.0.2.7", "fd6d", "10.1.2.3", "abab"):
        assert leaked not in printed


@given(st.ip_addresses(), st.sampled_from(["{}", "[{}]:4500", "({})", "to {}.", "{}/24", "x={},"]))
def test_any_address_is_scrubbed_wherever_it_stands(address, shape):
    text = shape.format(address)
    record = logging.LogRecord("x", logging.INFO, "", 0, text, None, None)
    shown = ScrubbingFormatter("%(message)s").format(record)
    assert str(address) not in shown
    assert "[scrubbed]" in shown


def test_time_of_day_is_no_address():
    record = logging.LogRecord("x", logging.INFO, "", 0, "text", None, None)
    line = ScrubbingFormatter("%(asctime)s %(message)s").format(record)
    assert "[scrubbed]" not in line


def peer_record(created, event="link.refused"):
    record = logging.LogRecord("overlay.link", logging.WARNING, "", 0, event, None, None)
    record.__dict__ |= {"created": created, "event": event, "peer_triggered": True}
    return record


def test_peers_cannot_flood_the_log():
    bounded = PeerTriggeredFilter()
    assert sum(bounded.filter(peer_record(1000.0 + i / 1000)) for i in range(1000)) == 5
    late = peer_record(1061.5)
    assert bounded.filter(late)
    assert late.getMessage() == "link.refused left_out=995"


def test_one_event_does_not_silence_another():
    bounded = PeerTriggeredFilter()
    for _ in range(10):
        bounded.filter(peer_record(1000.0))
    assert bounded.filter(peer_record(1000.0, event="dht.refused"))


def test_clock_that_steps_back_gives_no_more_lines():
    bounded = PeerTriggeredFilter()
    passed = sum(bounded.filter(peer_record(1000.0 - i)) for i in range(100))
    assert passed == 5


def test_events_are_bounded():
    bounded = PeerTriggeredFilter()
    passed = sum(bounded.filter(peer_record(1000.0, event=f"e{i}")) for i in range(2000))
    assert passed == 1024


def test_what_no_peer_triggers_is_never_left_out(stream):
    log = EventLog("overlay.test")
    for _ in range(20):
        log.warning("disk.full")
    assert stream.getvalue().count("disk.full") == 20


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match="must be one of error, warning, info, debug"):
        configure_logging("loud", sys.stderr)

"""A log that is seized tells nothing: no address, id, key, SPI or destination at any level."""

import ipaddress
import logging
from ipaddress import ip_network

import pytest
from overlay_world import World
from test_overlay_in_memory import BOB, exit_of, inner_packet, open_path

from overlay.errors import NoSuitablePath
from overlay.logs import configure_logging
from overlay.paths.requested_path import PathTerms


class Captured(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def captured(capsys):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    configure_logging("debug")
    handler = Captured()
    root.addHandler(handler)
    yield handler
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def secrets_of(world, path):
    """Everything in use that names a party, in every notation that a log could show."""
    contents = [node.engine.contents() for node in world.all]
    packed = [address for held in contents for address in held.local_addresses]
    packed += path.inner_addresses
    packed += [node.identity.overlay_address for node in world.all]
    raw = [node.identity.node_id for node in world.all]
    raw += [node.identity.identity_key for node in world.all]
    raw += [node.identity.link_key for node in world.all]
    raw += [node.identity.onion_key for node in world.all]
    for held in contents:
        for sa in held.associations:
            if sa.inbound and sa.encapsulation is None:
                raw.append(sa.keymat.reveal())
                raw.append(sa.spi.to_bytes(4, "big"))
    words = {"203.0.113.10"}
    words |= {str(ipaddress.ip_address(address)) for address in packed}
    words |= {node.endpoint.host for node in world.all}
    for value in (*raw, *packed):
        words |= {value.hex(), repr(value)[2:-1], str(int.from_bytes(value, "big"))}
    return words


@pytest.mark.slow
def test_a_circuits_whole_life_and_its_failures_leave_no_trace_in_the_logs(captured):
    world = World(8)
    world.join_all()
    alice = world.all[1]
    path = open_path(world, alice)
    words = secrets_of(world, path)
    alice.cores.datapath.from_source_device([inner_packet(path)], world.now)
    assert world.run(5, until=lambda: exit_of(world, path).exit_device.written)
    terms = PathTerms(ip_network("10.0.0.1/32"), 3, "uniform")
    with pytest.raises(NoSuitablePath) as refused:
        alice.cores.paths.open_paths([terms], world.now)
    for junk in (b"", b"\xff", bytes(300), bytes(4) + b"\x01" + bytes(200), world.wire[-1][2][:-1]):
        world.network.carry(junk, world.all[0].endpoint, alice.endpoint)
    world.crash(exit_of(world, path))
    world.run(90)
    alice.close(path)
    world.run(30)
    logging.getLogger("overlay.test").warning("the capture works")
    logging.getLogger("kademlia.protocol").warning("never seen %s before", alice.endpoint)
    text = "\n".join(captured.lines) + str(refused.value)
    assert "the capture works" in text
    told = ("bootstrap.joined", "path.circuit_asked", "path.open ", "path.standby_", "path.lost")
    assert [word for word in told if word not in text] == []
    assert BOB not in text
    assert len(words) > 100
    assert [word for word in words if len(word) > 3 and word in text] == []

"""A source whose paths outlive it, and the nodes that carry them."""

import ipaddress
import json

import pytest
from loopback_overlay import Participant, cast, until

from overlay.config.load import parse_configuration
from overlay.node.path_file import encode_paths
from overlay.paths.requested_path import PathTerms

BOB = ipaddress.ip_network("203.0.113.10/32")
CAROL = ipaddress.ip_network("203.0.113.11/32")
BOTH = '[exit]\npolicy = ["accept 203.0.113.0/24:*", "accept [2001:db8:77::]/48:*"]\n'


@pytest.fixture
def others(tmp_path):
    """One relay and one exit for both IP versions."""
    (first,) = cast(tmp_path, relays=1)
    return [first, Exit(tmp_path, 2, exits=True, bootstrap=first)]


class Exit(Participant):
    """A participant whose exit policy accepts both IP versions."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        text = (
            '[network]\nnetwork_id = "loopback"\nallow_private_endpoints = true\n'
            f'listen = ["{self.endpoint}"]\nbootstrap = ["{options["bootstrap"].endpoint}"]\n'
            f'[roles]\nexit = true\n[ipsec]\nbackend = "userspace"\n{BOTH}'
            "[dht]\ncrawl_first_interval_s = 1.0\ncrawl_interval_s = 10.0\n"
        )
        self.configuration = parse_configuration(text, self.directory / "overlay.toml")


@pytest.fixture
def alice(tmp_path, others):
    return Participant(tmp_path, 9, bootstrap=others[0], settings="[selection]\nhops = 2\n")


def with_settings(participant, settings):
    """Give a participant another configuration, as if its user had edited the file."""
    bootstrap = participant.configuration.network.bootstrap[0]
    text = (
        '[network]\nnetwork_id = "loopback"\nallow_private_endpoints = true\n'
        f'listen = ["{participant.endpoint}"]\nbootstrap = ["{bootstrap}"]\n'
        '[ipsec]\nbackend = "userspace"\n[dht]\ncrawl_first_interval_s = 1.0\n'
        "[selection]\nhops = 2\n" + settings
    )
    participant.configuration = parse_configuration(text, participant.directory / "overlay.toml")


def file_of(participant):
    return participant.configuration.node.paths_file


def remember(participant, destination):
    """Write what an earlier process would have left on the disk."""
    file_of(participant).write_bytes(encode_paths([PathTerms(destination, 2, "uniform")]))


def stored(participant):
    return json.loads(file_of(participant).read_text())["paths"]


async def open_again(node):
    """Wait until every path of a node is open; return the reports."""
    await until(lambda: {p.state for p in node.service.paths()} == {"open"}, within_s=60)
    return node.service.paths()

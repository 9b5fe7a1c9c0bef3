"""One or more of every DHT message."""

from overlay.addresses import Endpoint
from overlay.dht.messages import (
    Contact,
    Contacts,
    FindNode,
    FindRecord,
    Leave,
    Left,
    Ping,
    Pong,
    Record,
    Store,
    Stored,
)


def contacts(count, host="11.0.0.{}"):
    return Contacts(
        tuple(Contact.of(bytes([n]) * 32, Endpoint(host.format(n + 1), 4500)) for n in range(count))
    )


REQUESTS = [
    Ping(),
    FindNode(bytes(20)),
    FindRecord(bytes(20)),
    Store(bytes(200)),
    Store(bytes(400)),
    *(Leave(sequence) for sequence in (0, 127, 128, 65_535, 65_536, 2**32, 2**63)),
]
REPLIES = [
    Pong(),
    *(contacts(count) for count in (0, 1, 15, 16, 20)),
    contacts(20, "2600::{}"),
    Record(bytes(255)),
    Record(bytes(256)),
    Stored(True),
    Stored(False),
    Left(),
]

"""Make invalid datagrams of every kind that any host can send to a node's UDP port."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from overlay.addresses import Endpoint
from overlay.demultiplexer import NAT_KEEPALIVE, Channel, frame
from overlay.dht.envelope import Envelopes
from overlay.dht.messages import FindNode, Ping, Request
from overlay.identity import LocalIdentity
from overlay.link.cookie import ReceiverKeys, with_macs
from overlay.link.exchange import Credentials
from overlay.link.handshake import GEOMETRY, MessageType, header

__all__ = ["garbage_kinds"]

_COUNT: Final = 256
_SPI_LIMIT: Final = 2**32


def garbage_kinds(
    target: LocalIdentity, network_id: str, endpoint: Endpoint, known_spi: bytes
) -> dict[str, list[bytes]]:
    """Return 256 payloads of each kind, by name.

    Args:
        target: the node that receives them; only its public data are used.
        network_id: name of its network.
        endpoint: endpoint at which it listens.
        known_spi: the SPI of one of its inbound link SAs, which an observer of the link can see.
    """
    rng = Random(1)
    link, dht = (
        _LinkGarbage(target, network_id, rng),
        _DhtGarbage(target, network_id, endpoint, rng),
    )
    kinds: dict[str, Callable[[], bytes]] = {
        "ESP, unknown SPI": lambda: (
            rng.randrange(256, _SPI_LIMIT).to_bytes(4, "big") + rng.randbytes(124)
        ),
        "ESP, unknown SPI, 1,400 bytes": lambda: (
            rng.randrange(256, _SPI_LIMIT).to_bytes(4, "big") + rng.randbytes(1396)
        ),
        "ESP, known SPI, wrong ICV": lambda: (
            known_spi + rng.randrange(2**31, _SPI_LIMIT).to_bytes(4, "big") + rng.randbytes(1392)
        ),
        "link, wrong mac1": lambda: frame(Channel.LINK, link.wrong_mac1()),
        "link, valid mac1": lambda: frame(Channel.LINK, link.valid_mac1(None)),
        "link, valid mac1, wrong cookie": lambda: frame(
            Channel.LINK, link.valid_mac1(rng.randbytes(16))
        ),
        "link, answers to nothing": lambda: frame(Channel.LINK, link.stray()),
        "DHT, random bytes": lambda: frame(Channel.DHT, rng.randbytes(200)),
        "DHT, no cookie": lambda: frame(Channel.DHT, dht.request(b"")),
        "DHT, wrong cookie": lambda: frame(Channel.DHT, dht.request(rng.randbytes(16))),
        "DHT, answers to nothing": lambda: frame(Channel.DHT, dht.stray()),
        "unknown channel, 1,400 bytes": lambda: bytes(4) + b"\x07" + rng.randbytes(1395),
        "keepalives, 1 byte": lambda: NAT_KEEPALIVE,
    }
    return {name: [make() for _ in range(_COUNT)] for name, make in kinds.items()}


class _LinkGarbage:
    """Make messages of the link channel."""

    def __init__(self, target: LocalIdentity, network_id: str, rng: Random) -> None:
        credentials = Credentials.of(target, network_id, (1,))
        self._keys = ReceiverKeys.of(credentials.link_key, credentials.network_hash)
        self._rng = rng

    def valid_mac1(self, cookie: bytes | None) -> bytes:
        begin = header(MessageType.INITIATION, self._rng.randrange(_SPI_LIMIT))
        body = begin + self._rng.randbytes(GEOMETRY.initiation_noise)
        return with_macs(body, self._keys, cookie)

    def wrong_mac1(self) -> bytes:
        begin = header(MessageType.INITIATION, self._rng.randrange(_SPI_LIMIT))
        return begin + self._rng.randbytes(GEOMETRY.initiation - len(begin))

    def stray(self) -> bytes:
        kind, size = self._rng.choice(
            [
                (MessageType.RESPONSE, GEOMETRY.response),
                (MessageType.COOKIE_REPLY, GEOMETRY.cookie_reply),
                (MessageType.CONFIRM, GEOMETRY.notice),
                (MessageType.CLOSE, GEOMETRY.notice),
            ]
        )
        begin = header(kind, self._rng.randrange(256, _SPI_LIMIT))
        return begin + self._rng.randbytes(size - len(begin))


class _DhtGarbage:
    """Make messages of the DHT channel with a valid form, from identities that exist."""

    def __init__(
        self, target: LocalIdentity, network_id: str, endpoint: Endpoint, rng: Random
    ) -> None:
        self._envelopes = Envelopes(LocalIdentity.generate(rng), network_id)
        self._target, self._endpoint, self._rng = target.node_id, endpoint, rng

    def request(self, cookie: bytes) -> bytes:
        request: Request = Ping() if self._rng.random() < 0.5 else FindNode(self._target)
        return self._envelopes.request(
            request,
            request_id=self._rng.randbytes(12),
            responder=self._target,
            sent_to=self._endpoint,
            cookie=cookie,
        )

    def stray(self) -> bytes:
        return self._envelopes.challenge(self._rng.randbytes(12), self._rng.randbytes(16))

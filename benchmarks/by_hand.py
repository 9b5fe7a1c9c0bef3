"""Make the same tunnels with ``ip xfrm`` commands, as an administrator would, without a node.

The values come from the translator, so the kernel gets the same configuration in both ways. The
commands name only necessary options. Everything else has iproute2's defaults.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from random import Random

from lab.paper.apm_node import PORT
from lab.paper.chain import Chain, destination_address, inner_pool, node_address
from lab.paper.circuits import MeasuredCircuit
from overlay.addresses import (
    CIRCUIT_PREFIX,
    OVERLAY_PREFIX,
    CircuitAddress,
    Endpoint,
    InnerAddress,
    OverlayAddress,
)
from overlay.apm.circuits import ExitIpsecInfo, OnionSas, RelayIpsecInfo, SourceIpsecInfo
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.translator import (
    translate_exit,
    translate_inner,
    translate_relay,
    translate_source,
)
from overlay.ipsec.interface import (
    IpsecConfiguration,
    Prefix,
    SecurityAssociation,
    SecurityPolicy,
    Spi,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.algorithms import algorithm_names
from overlay.link.events import LinkKeys
from overlay.link.security import FIRST_CIRCUIT_REQID, LinkSecurity, link_associations
from overlay.sensitive import SecretBytes

__all__ = ["HandMade", "ip_commands"]

_LINK_SUITE = 3
_LINK_REQID = 500


def ip_commands(configuration: IpsecConfiguration, device: str = "lo") -> Iterator[str]:
    """Yield lines for ``ip -batch`` that do what the backend does with a configuration."""
    for sa in configuration.associations:
        yield _state(sa)
    for policy in configuration.policies:
        yield _policy(policy)
    for address in configuration.local_addresses:
        shown = ipaddress.ip_address(address)
        nodad = " nodad" if shown.version == 6 else ""
        yield f"address add {shown}/{shown.max_prefixlen} dev {device}{nodad}"


def _state(sa: SecurityAssociation) -> str:
    suite, keymat = SUITES[sa.suite], sa.keymat.reveal()
    names = algorithm_names(suite)
    if suite.digest:
        cipher, auth = keymat[: suite.key_bytes], keymat[suite.key_bytes :]
        icv = f"auth-trunc {names[1]} 0x{auth.hex()} {suite.icv_bytes * 8}"
        protection = f"enc {names[0]} 0x{cipher.hex()} {icv}"
    else:
        protection = f"aead {names[0]} 0x{keymat.hex()} {suite.icv_bytes * 8}"
    ends = f"src {_shown(sa.source)} dst {_shown(sa.destination)}"
    command = f"xfrm state add {ends} proto esp spi {sa.spi:#x} reqid {sa.reqid} mode tunnel"
    command += f" {protection} replay-window 32 flag af-unspec"
    if sa.encapsulation is not None:
        ports = f"{sa.encapsulation.source.port} {sa.encapsulation.destination.port}"
        command += f" encap espinudp {ports} 0.0.0.0"
    return command


def _policy(policy: SecurityPolicy) -> str:
    selector = policy.selector
    protocol = f" proto {selector.protocol}" if selector.protocol is not None else ""
    ends = f"src {_prefix(selector.source)} dst {_prefix(selector.destination)}{protocol}"
    templates = "".join(
        f" tmpl src {_shown(each.source)} dst {_shown(each.destination)} proto esp"
        f" reqid {each.reqid} mode tunnel"
        for each in policy.templates
    )
    priority = 1000 - selector.destination.length - (selector.protocol is not None)
    return (
        f"xfrm policy add {ends} dir {policy.direction.name.lower()} priority {priority}{templates}"
    )


def _shown(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _prefix(prefix: Prefix) -> str:
    return f"{_shown(prefix.network)}/{prefix.length}"


class HandMade:
    """A circuit of fixed values over a chain of nodes, in addition to the circuits of APM."""

    def __init__(self, chain: Chain, group: int, hops: int, suite: int) -> None:
        self._chain, self._group, self.hops, self._suite = chain, group, hops, suite
        self._rng = Random(f"{group} {hops}")
        exit_pool = inner_pool(hops)
        self._inner = IPv4Address(int(exit_pool.broadcast_address) - 1 - group)
        self._onions = [self._onion(hop) for hop in range(1, hops + 1)]
        self._links = {pair: self._link(*pair) for pair in itertools.pairwise(range(hops + 1))}

    @property
    def route(self) -> MeasuredCircuit:
        """The two ends of the measurement."""
        return MeasuredCircuit(self.hops, self._inner, destination_address(self._group, self.hops))

    def install(self) -> None:
        """Run the commands of each node through ``ip -batch``."""
        for number in range(self.hops + 1):
            lines = [line for each in self.configurations(number) for line in ip_commands(each)]
            self._chain.nodes[number].configure(list(dict.fromkeys(lines)))

    def circuit_configuration(self, number: int) -> IpsecConfiguration:
        """Return the configuration of the circuit at a node, without links."""
        if number == 0:
            return translate_source(SourceIpsecInfo(tuple(self._onions), self._security(0, 1)))
        previous = self._security(number, number - 1)
        sas = self._onions[number - 1]
        if number == self.hops:
            return translate_exit(ExitIpsecInfo(sas, previous, self._inner_addresses()))
        following = self._onions[number]
        return translate_relay(
            RelayIpsecInfo(
                sas, previous, following.near, following.hop, self._security(number, number + 1)
            )
        )

    def configurations(self, number: int) -> Sequence[IpsecConfiguration]:
        """Return the whole configuration of a node, with its overlay address and its links."""
        found = [self.circuit_configuration(number), *self._link_configurations(number)]
        if number == 0:
            info = SourceIpsecInfo(tuple(self._onions), self._security(0, 1))
            target = ipaddress.IPv4Network(self.route.destination)
            found.append(translate_inner(info, self._inner_addresses(), target))
        return found

    def _link_configurations(self, number: int) -> Iterator[IpsecConfiguration]:
        own = (self._overlay_address(number),)
        for (left, right), (to_right, to_left) in self._links.items():
            if number in (left, right):
                keys = (to_left, to_right) if number == left else (to_right, to_left)
                pair = link_associations(
                    local=_endpoint(number),
                    remote=_endpoint(right if number == left else left),
                    keys=LinkKeys(_LINK_SUITE, *keys[0], *keys[1]),
                    reqid=self._link_reqid(left),
                )
                yield IpsecConfiguration(pair, (), own)

    def _inner_addresses(self) -> InnerAddresses:
        return InnerAddresses(ipv4=InnerAddress(self._inner.packed))

    def _overlay_address(self, number: int) -> OverlayAddress:
        return OverlayAddress(
            OVERLAY_PREFIX + bytes((0, self._group, self.hops)) + bytes(8) + bytes((number,))
        )

    def _circuit_address(self, number: int) -> CircuitAddress:
        return CircuitAddress(
            CIRCUIT_PREFIX + bytes((0, self._group, self.hops)) + bytes(8) + bytes((number,))
        )

    def _security(self, local: int, remote: int) -> LinkSecurity:
        reqid = self._link_reqid(min(local, remote))
        return LinkSecurity(reqid, _endpoint(local).packed, _endpoint(remote).packed)

    def _link_reqid(self, left: int) -> int:
        return _LINK_REQID + 100 * self._group + 10 * self.hops + left

    def _link(
        self, _left: int, _right: int
    ) -> tuple[tuple[Spi, SecretBytes], tuple[Spi, SecretBytes]]:
        """Return SPI and keys of both directions."""
        return self._new_sa(SUITES[_LINK_SUITE].keymat_bytes), self._new_sa(
            SUITES[_LINK_SUITE].keymat_bytes
        )

    def _new_sa(self, keymat_bytes: int) -> tuple[Spi, SecretBytes]:
        spi = Spi(self._rng.randint(0x100, 0xFFFFFFFF))
        return spi, SecretBytes(self._rng.randbytes(keymat_bytes))

    def _onion(self, hop: int) -> OnionSas:
        size = SUITES[self._suite].keymat_bytes
        (forward_spi, forward), (backward_spi, backward) = self._new_sa(size), self._new_sa(size)
        reqid = FIRST_CIRCUIT_REQID + 10_000 * self._group + 100 * self.hops + 2 * hop
        return OnionSas(
            hop=self._overlay_address(hop),
            near=self._circuit_address(hop - 1),
            esp_suite=self._suite,
            forward_spi=forward_spi,
            backward_spi=backward_spi,
            forward_keymat=forward,
            backward_keymat=backward,
            forward_reqid=reqid,
            backward_reqid=reqid + 1,
            chain=SecretBytes(bytes(32)),  # keys of these tunnels are never replaced
        )


def _endpoint(number: int) -> Endpoint:
    return Endpoint(str(node_address(number)), PORT)

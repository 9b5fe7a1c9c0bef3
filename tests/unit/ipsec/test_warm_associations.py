"""Ciphers and plans are for SAs in use; to lose them changes nothing that a peer can see."""

from random import Random

import pytest
from ipsec_circuits import BOB_V4, INNER_V4, NOW, build_circuit, ipv4, sa_ends

from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4
from overlay.ipsec.interface import Drop, IpsecConfiguration, SecurityPolicy
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.cipher_cache import COOLING_S, MAX_WARM, CachedCiphers
from overlay.ipsec.userspace.spd import Chain, SecurityPolicyDatabase

PACKET = ipv4(INNER_V4, BOB_V4, b"anonymous")
NEAR, HOP = bytes(15) + b"\1", bytes(15) + b"\2"

every_suite = pytest.mark.parametrize("suite", SUITES, ids=[s.name for s in SUITES.values()])


def ends_of(spi: int = 0x5000, suite: int = 3):
    """Both ends of one onion SA, and the same warmth for both."""
    ends, warm = sa_ends(spi, (1, 1), NEAR, HOP, suite=suite), CachedCiphers()
    out = OutboundSa(ends.outbound, Random(1), lambda _: None, warm.add)
    into = InboundSa(ends.inbound, Random(2), lambda _: None, warm.add)
    return out, into, warm


def is_warm(sa) -> bool:
    return sa.is_warm


@every_suite
def test_a_cooled_sa_goes_on_where_it_was(suite):
    out, into, _ = ends_of(suite=suite)
    seen = []
    for _ in range(4):
        seen.append(out.seal(PACKET, IPV4, NOW))
        assert into.open(seen[-1], 40, NOW) == PACKET
        out.cool()
        into.cool()
    assert [into.open(old, 40, NOW) for old in seen] == [Drop.IN_STATE_SEQ_ERROR] * 4
    assert (out.counters().packets, into.counters().packets) == (4, 4)


@pytest.mark.parametrize("suite", [3, 4])
def test_a_cooled_sa_keeps_its_iv_mask_so_that_no_nonce_comes_again(suite):
    out, _, _ = ends_of(suite=suite)
    masks = set()
    for _ in range(5):
        sealed = out.seal(PACKET, IPV4, NOW)
        sequence, iv = (int.from_bytes(sealed[a:b], "big") for a, b in ((44, 48), (48, 56)))
        masks.add(iv ^ sequence)
        out.cool()
    assert len(masks) == 1


def test_what_was_used_of_late_stays_warm_and_the_rest_is_cooled():
    out, into, warm = ends_of()
    sealed = out.seal(PACKET, IPV4, NOW)
    into.open(sealed, 40, NOW + 1)
    warm.cool_idle(NOW + COOLING_S)
    assert (is_warm(out), is_warm(into), len(warm)) == (False, True, 1)
    warm.cool_idle(NOW + 1 + COOLING_S)
    assert (is_warm(into), len(warm)) == (False, 0)


def test_an_sa_that_only_saw_forgeries_is_cooled():
    _, into, warm = ends_of()
    assert isinstance(into.open(bytes(36) + bytes(100), 36, NOW), Drop)
    assert isinstance(into.open(bytes(40) + b"\0\0\x50\0\0\0\0\1" + bytes(64), 40, NOW), Drop)
    assert is_warm(into)
    warm.cool_idle(NOW)
    assert (is_warm(into), len(warm)) == (False, 0)


def test_no_more_than_the_bound_are_warm_and_the_first_makes_room():
    warm = CachedCiphers()
    sas = [
        OutboundSa(sa_ends(0x5000 + i, (i, i), NEAR, HOP).outbound, Random(i), print, warm.add)
        for i in range(MAX_WARM + 2)
    ]
    for sa in sas:
        assert isinstance(sa.seal(PACKET, IPV4, NOW), bytes)
    assert len(warm) == MAX_WARM
    assert [is_warm(sa) for sa in sas] == [False, False, *[True] * MAX_WARM]
    assert isinstance(sas[0].seal(PACKET, IPV4, NOW), bytes)
    assert [is_warm(sa) for sa in sas[:4]] == [True, False, False, True]


def test_an_engine_cools_idle_circuits_and_carries_on():
    circuit = build_circuit(3)
    engines = [host.engine for host in circuit.hosts]
    for now in (NOW, NOW + 60):
        sent = circuit.alice.engine.process_outbound([PACKET], now).to_network
        _, result = circuit.carry(circuit.alice, sent, now)
        assert result.to_exit == [PACKET]
        assert engines[1].contents().ciphers == 1
        assert engines[1].contents().compiled_links
        for engine in engines:
            engine.process_inbound([], now + 30)
            assert engine.contents().ciphers == 0
            assert engine.contents().compiled_links == 0


def test_a_removed_sa_is_no_longer_held_and_flush_forgets_all():
    circuit = build_circuit(2)
    circuit.carry(circuit.alice, circuit.alice.engine.process_outbound([PACKET], NOW).to_network)
    relay, source = circuit.hosts[1].engine, circuit.alice.engine
    onions = [sa for sa in relay.contents().associations if sa.inbound and not sa.encapsulation]
    assert onions
    assert relay.contents().ciphers == len(onions)
    relay.remove(IpsecConfiguration(tuple(onions), ()))
    assert relay.contents().ciphers == 0
    assert source.contents().ciphers == 2
    source.flush()
    assert source.contents().is_empty


def test_policies_share_the_chain_of_a_link_until_the_last_of_them_is_removed():
    """One object for each link, because hundreds of chains end with it."""
    policies = build_circuit(3).configurations[0].policies
    links = {policy.templates[-1] for policy in policies}
    assert len(policies) > len(links) == 2
    spd = SecurityPolicyDatabase()
    spd.add(policies)
    shared = {id(chain_of(spd, policy)[-1]) for policy in policies}
    assert (len(spd), spd.links(), len(shared)) == (len(policies), 2, 2)
    for left, policy in reversed([*enumerate(policies)]):
        assert spd.discard(policy)
        assert not spd.discard(policy)
        assert len(spd) == left
        assert spd.links() == len({other.templates[-1] for other in policies[:left]})


def chain_of(spd: SecurityPolicyDatabase, policy: SecurityPolicy) -> Chain:
    selector = policy.selector
    chain = spd.find(
        policy.direction,
        selector.source.network,
        selector.destination.network,
        selector.protocol or 0,
    )
    assert chain is not None
    assert len(chain) == len(policy.templates)
    return chain

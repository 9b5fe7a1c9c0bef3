"""Links that move while the kernel carries them: what the kernel holds before, meanwhile, after."""

import errno
import ipaddress
from random import Random

import pytest
from fake_xfrm import FakeKernel, message
from test_xfrm_failures import CIRCUIT, Device, Owner

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import BackendError
from overlay.ipsec.interface import IpsecConfiguration, Spi
from overlay.ipsec.xfrm import backend as backend_module
from overlay.ipsec.xfrm import netlink
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.messages import XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA, MarshalXfrm
from overlay.link.events import LinkKeys
from overlay.link.security import LinkSecurity, link_associations, link_policies
from overlay.sensitive import SecretBytes

REQID = 7
HERE, THERE = Endpoint("10.0.0.1", 4500), Endpoint("10.0.0.2", 4500)
MOVES = {
    "port": (HERE, Endpoint("10.0.0.2", 40_001)),
    "peer": (HERE, Endpoint("10.0.0.3", 40_001)),
    "ourselves": (Endpoint("10.0.0.9", 4500), THERE),
    "both": (Endpoint("10.0.0.9", 4500), Endpoint("10.0.0.3", 4500)),
    "version": (Endpoint("fd00::1", 4500), Endpoint("fd00::2", 4500)),
}
OWN, PEER = (OverlayAddress(bytes.fromhex("fd6d6978") + bytes(11) + bytes((n,))) for n in (1, 2))
SIGNALLING = IpsecConfiguration(
    (), link_policies(OWN, PEER, LinkSecurity(REQID, HERE.packed, THERE.packed)), (OWN,)
)


def pair(spi, *, local=HERE, remote=THERE):
    keys = LinkKeys(3, Spi(spi), SecretBytes(bytes(36)), Spi(spi + 1), SecretBytes(bytes(36)))
    return IpsecConfiguration(
        link_associations(local=local, remote=remote, keys=keys, reqid=REQID), ()
    )


@pytest.fixture
def kernel(monkeypatch):
    made = FakeKernel()
    monkeypatch.setattr(netlink, "open_socket", made.socket)
    monkeypatch.setattr(backend_module, "CircuitDevice", Device)
    monkeypatch.setattr(backend_module, "Ownership", Owner)
    return made


@pytest.fixture
def backend(kernel):
    """A backend with a link of two pairs, and a circuit over it."""
    with XfrmBackend(rng=Random(1)) as made:
        for each in (SIGNALLING, CIRCUIT, pair(1000), pair(2000)):
            made.install(each)
        yield made


def decoded(kind, body):
    found = MarshalXfrm.msg_map[kind](message(kind, 0, body))
    found.decode()
    return found


def associations(kernel):
    """Each link SA in the kernel: SPI, addresses, ports, first sequence number to send."""
    found = []
    for body in kernel.associations.values():
        sa = decoded(XFRM_MSG_NEWSA, body)
        ports = sa.get_attr("XFRMA_ENCAP")
        if ports is not None:
            size = 4 if sa["family"] == 2 else 16
            ends = [str(ipaddress.ip_address(sa[name][:size])) for name in ("saddr", "id_daddr")]
            oseq = sa.get_attr("XFRMA_REPLAY_ESN_VAL")["oseq"]
            found.append((sa["id_spi"], *ends, ports["sport"], ports["dport"], oseq))
    return sorted(found)


def outbound_templates(kernel):
    """The addresses of the link in all policies for packets that leave."""
    found = set()
    for body in kernel.policies.values():
        policy = decoded(XFRM_MSG_NEWPOLICY, body)
        for each in (policy.get_attr("XFRMA_TMPL") or [])[-1:]:
            if policy["dir"] == 1:
                size = 4 if each["family"] == 2 else 16
                found.add((each["saddr"][:size], each["daddr"][:size]))
    return found


def sending(kernel, spi):
    return [each for each in associations(kernel) if each[0] == spi]


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_both_directions_go_on_between_the_new_endpoints(kernel, backend, move):
    local, remote = move
    before = {each[0]: each for each in associations(kernel)}
    moved = backend.relocate([pair(1000), pair(2000)], local, remote)
    assert outbound_templates(kernel) == {(local.packed, remote.packed)}
    for spi in (1001, 2001):
        [(_, source, destination, sport, dport, first)] = sending(kernel, spi)
        assert (source, destination) == (local.host, remote.host)
        assert (sport, dport) == (local.port, remote.port)
        same = (local.host, remote.host) == (HERE.host, THERE.host)
        assert first == before[spi][-1] if same else first > before[spi][-1] + 10_000
    for spi in (1000, 2000):
        receiving = [each for each in associations(kernel) if each[0] == spi]
        assert {each[2] for each in receiving} == {HERE.host, local.host}
        [here] = [each for each in receiving if each[2] == local.host]
        assert here[3:5] == (remote.port, local.port)
    assert backend.association_counts()["link SAs"] == len(associations(kernel))
    for each in (SIGNALLING, CIRCUIT, *moved):
        backend.remove(each)
    assert associations(kernel) == []
    assert outbound_templates(kernel) == set()


def test_what_is_installed_after_a_move_names_the_new_endpoints(kernel, backend):
    local, remote = MOVES["both"]
    backend.remove(CIRCUIT)
    backend.relocate([pair(1000), pair(2000)], local, remote)
    backend.install(CIRCUIT)
    assert outbound_templates(kernel) == {(local.packed, remote.packed)}
    kernel.policies.clear()
    assert backend.repair() == ("IPsec policies", "overlay addresses")
    assert outbound_templates(kernel) == {(local.packed, remote.packed)}


def test_a_reqid_that_comes_round_again_is_of_no_link_that_moved(kernel, backend):
    for each in (SIGNALLING, CIRCUIT, *backend.relocate([pair(1000), pair(2000)], *MOVES["both"])):
        backend.remove(each)
    backend.install(SIGNALLING)
    assert outbound_templates(kernel) == {(HERE.packed, THERE.packed)}


def test_a_link_that_moves_often_receives_at_its_last_two_addresses(kernel, backend):
    pairs = [pair(1000), pair(2000)]
    for number in range(3, 9):
        pairs = backend.relocate(pairs, Endpoint(f"10.0.0.{number}", 4500), THERE)
        assert len(sending(kernel, 1000)) == 2
        assert len(sending(kernel, 1001)) == 1
    pairs = backend.relocate(pairs, Endpoint("10.0.0.7", 4500), THERE)
    assert {each[2] for each in sending(kernel, 1000)} == {"10.0.0.7", "10.0.0.8"}


def test_a_window_and_counters_go_along(kernel, backend):
    def progress():
        [sa] = [
            decoded(XFRM_MSG_NEWSA, body)
            for body in kernel.associations.values()
            if decoded(XFRM_MSG_NEWSA, body)["id_spi"] == 1000
            and decoded(XFRM_MSG_NEWSA, body)["id_daddr"][:4] != HERE.packed
        ]
        return sa.get_attr("XFRMA_REPLAY_ESN_VAL"), sa.get_attr("XFRMA_LTIME_VAL")

    for key, body in kernel.associations.items():
        sa = decoded(XFRM_MSG_NEWSA, body)
        if sa["id_spi"] == 1000:
            sa["curlft_packets"], sa["curlft_add_time"] = 123, 456
            [window] = [each for each in sa["attrs"] if each[0] == "XFRMA_REPLAY_ESN_VAL"]
            window[1].update(seq=77, seq_hi=1, bmp=bytes(range(128)))
            kernel.associations[key] = encoded(sa)
    backend.relocate([pair(1000), pair(2000)], *MOVES["ourselves"])
    window, counters = progress()
    assert (window["seq"], window["seq_hi"], window["bmp"]) == (77, 1, bytes(range(128)))
    assert (counters["packets"], counters["add_time"]) == (123, 456)


def encoded(sa):
    attributes = sa["attrs"]
    fresh = type(sa)()
    fresh.update({k: v for k, v in sa.items() if k not in ("attrs", "header")})
    fresh["attrs"] = [
        (name, dict(value) if isinstance(value, dict) else value)
        for name, value in ((each[0], each[1]) for each in attributes)
    ]
    fresh.encode()
    return bytes(fresh.data[16:])


@pytest.mark.parametrize("number", range(1, 12))
def test_a_refusal_leaves_nothing_that_the_end_of_the_link_does_not_remove(kernel, backend, number):
    pairs = [pair(1000), pair(2000)]
    kernel.refuse = {kernel.count + number: errno.ENOMEM}
    with pytest.raises(BackendError):
        backend.relocate(pairs, *MOVES["both"])
    kernel.refuse.clear()
    for each in (SIGNALLING, CIRCUIT, *pairs):
        backend.remove(each)
    assert associations(kernel) == []


def test_what_the_kernel_has_ended_does_not_stop_a_move(kernel, backend):
    for key, body in list(kernel.associations.items()):
        if decoded(XFRM_MSG_NEWSA, body)["id_spi"] in (1000, 1001):
            del kernel.associations[key]
    for move in (MOVES["port"], MOVES["both"]):
        backend.relocate([pair(1000), pair(2000)], *move)
        assert [each[0] for each in associations(kernel) if each[0] > 1001] != []

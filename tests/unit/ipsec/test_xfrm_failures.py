"""The kernel backend when netlink fails: nothing of a failed call stays, and no removal fails."""

import errno
from random import Random

import pytest
from fake_xfrm import FakeKernel, made_identity

from overlay.apm.circuits import OnionSas, SourceIpsecInfo
from overlay.apm.translator import translate_source
from overlay.errors import BackendError
from overlay.ipsec.interface import IpsecConfiguration, Spi
from overlay.ipsec.xfrm import backend as backend_module
from overlay.ipsec.xfrm import netlink
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.entries import OWNER
from overlay.ipsec.xfrm.forms import association_body
from overlay.ipsec.xfrm.messages import usersa_info
from overlay.link.security import LinkSecurity
from overlay.sensitive import SecretBytes

KEPT = "entries that the kernel keeps"


class Device:
    """Holds addresses; ``fails`` counts the calls that still fail."""

    name = "anonsec0"
    kept = 0

    def __init__(self, routed):
        self.held, self.fails = set(), 0

    def add(self, addresses):
        if self.fails:
            self.fails -= 1
            raise BackendError("adding an overlay address failed (No buffer space available).")
        self.held |= set(addresses)

    def remove(self, addresses):
        self.held -= set(addresses)

    def close(self):
        pass


class Owner:
    def __init__(self, what, remedy):
        pass

    def release(self):
        pass

    def retake(self):
        return False


@pytest.fixture
def kernel(monkeypatch):
    made = FakeKernel()
    monkeypatch.setattr(netlink, "open_socket", made.socket)
    monkeypatch.setattr(backend_module, "CircuitDevice", Device)
    monkeypatch.setattr(backend_module, "Ownership", Owner)
    return made


@pytest.fixture
def backend(kernel):
    with XfrmBackend(rng=Random(1)) as made:
        yield made


def onion(number):
    return OnionSas(
        hop=bytes.fromhex("fd6d6978") + bytes(11) + bytes((number,)),
        near=bytes.fromhex("fd636972") + bytes(11) + bytes((number,)),
        esp_suite=3,
        forward_spi=Spi(1000 + number),
        backward_spi=Spi(2000 + number),
        forward_keymat=SecretBytes(bytes(36)),
        backward_keymat=SecretBytes(bytes(36)),
        forward_reqid=70_000 + number,
        backward_reqid=80_000 + number,
        chain=SecretBytes(bytes(32)),
    )


CIRCUIT = translate_source(
    SourceIpsecInfo(
        (onion(1), onion(2)), LinkSecurity(7, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
    )
)
SAS, POLICIES = len(CIRCUIT.associations), len(CIRCUIT.policies)


def foreign(kernel, sa):
    """Another program's SA of the same identity."""
    body = bytearray(association_body(sa))
    at = usersa_info.offset_of("sel_user")
    assert body[at : at + 4] == OWNER.to_bytes(4, "little")
    body[at : at + 4] = bytes(4)
    kernel.associations[made_identity(bytes(body))] = bytes(body)
    return bytes(body)


def more(kernel, before):
    return tuple(now - then for now, then in zip(kernel.entries(), before, strict=True))


def test_a_circuit_is_installed_and_removed_whole(kernel, backend):
    before = kernel.entries()
    backend.install(CIRCUIT)
    assert more(kernel, before) == (SAS, POLICIES)
    backend.remove(CIRCUIT)
    assert more(kernel, before) == (0, 0)
    assert KEPT not in backend.association_counts()


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EPERM])
@pytest.mark.parametrize("which", range(1, SAS + POLICIES + 1))
def test_a_refusal_of_any_entry_undoes_the_others(kernel, backend, which, number):
    before = kernel.entries()
    kernel.refuse = {kernel.count + which: number}
    with pytest.raises(BackendError, match=r"^installing a security "):
        backend.install(CIRCUIT)
    assert more(kernel, before) == (0, 0)
    backend.install(CIRCUIT)


def test_lost_answers_undo_all_changes_that_may_have_been_made(kernel, backend):
    before = kernel.entries()
    kernel.lose_answers = 1
    with pytest.raises(BackendError, match="changing the kernel's IPsec entries failed"):
        backend.install(CIRCUIT)
    assert more(kernel, before) == (0, 0)
    assert KEPT not in backend.association_counts()
    backend.install(CIRCUIT)


def test_a_queue_full_of_old_answers_does_not_keep_later_ones_out(kernel, backend):
    before = kernel.entries()
    kernel.lose_answers = 1
    kernel.sockets[0].answers += [bytes(16)] * (kernel.room + 1)
    with pytest.raises(BackendError):
        backend.install(CIRCUIT)
    assert more(kernel, before) == (0, 0)
    assert KEPT not in backend.association_counts()


def test_undoing_in_the_dark_spares_an_sa_of_another_program(kernel, backend):
    theirs = foreign(kernel, CIRCUIT.associations[1])
    before = kernel.entries()
    kernel.lose_answers = 1
    with pytest.raises(BackendError):
        backend.install(CIRCUIT)
    assert more(kernel, before) == (0, 0)
    assert theirs in kernel.associations.values()


def test_what_cannot_be_undone_either_goes_with_the_next_change(kernel, backend):
    before = kernel.entries()
    kernel.lose_answers = 2
    with pytest.raises(BackendError):
        backend.install(CIRCUIT)
    assert backend.association_counts()[KEPT] == SAS + POLICIES
    assert more(kernel, before) == (SAS, POLICIES - 1), "one is gone, which nobody knows"
    backend.install(CIRCUIT)
    assert KEPT not in backend.association_counts()
    backend.remove(CIRCUIT)
    assert more(kernel, before) == (0, 0)


@pytest.mark.parametrize("how", ["lose_answers", "deaf"])
def test_a_removal_whose_socket_fails_is_no_error_and_made_up_for(kernel, backend, how):
    before = kernel.entries()
    backend.install(CIRCUIT)
    setattr(kernel, how, 1)
    backend.remove(CIRCUIT)
    assert backend.association_counts() == {
        "link SAs": 0, "onion SAs": 0, KEPT: SAS + POLICIES,
    }  # fmt: skip
    backend.remove(IpsecConfiguration((), ()))
    assert more(kernel, before) == (0, 0)
    assert KEPT not in backend.association_counts()


def test_an_entry_that_the_kernel_keeps_holds_nothing_else_up(kernel, backend):
    before = kernel.entries()
    backend.install(CIRCUIT)
    kernel.refuse = {kernel.count + 1: errno.EPERM}
    backend.remove(CIRCUIT)
    assert more(kernel, before) == (0, 1)
    kernel.refuse = {kernel.count + 1: errno.EPERM}
    backend.install(CIRCUIT.__class__((CIRCUIT.associations[0],), ()))
    assert backend.association_counts() == {"link SAs": 0, "onion SAs": 1, KEPT: 1}
    backend.remove(CIRCUIT)
    assert more(kernel, before) == (0, 0)


def test_an_address_that_cannot_be_had_undoes_the_rest_even_if_netlink_fails(kernel, backend):
    before = kernel.entries()
    backend.device.fails = 1
    with pytest.raises(BackendError, match="overlay address"):
        backend.install(CIRCUIT)
    assert more(kernel, before) == (0, 0)
    backend.device.fails, kernel.deaf = 1, 0
    kernel.refuse = {kernel.count + SAS + POLICIES + 1: errno.EPERM}
    with pytest.raises(BackendError, match="overlay address"):
        backend.install(CIRCUIT)
    assert backend.association_counts()[KEPT] == 1
    backend.install(CIRCUIT)


def test_the_end_takes_everything_whatever_was_kept(kernel):
    with XfrmBackend(rng=Random(1)) as backend:
        backend.install(CIRCUIT)
        kernel.deaf = 1
        backend.remove(CIRCUIT)
        assert kernel.entries()[0] == SAS
    assert kernel.entries() == (0, 0)

from __future__ import annotations

import pytest
from apm_lab import BOB_V4, Net

from overlay.apm.circuit_table import CircuitTable, RequestedCircuit
from overlay.apm.circuits import ExitIpsecInfo, RelayIpsecInfo, SourceIpsecInfo
from overlay.apm.inspection import CircuitInspection
from overlay.errors import InternalError


def circuits_of(net: Net, name: str) -> CircuitInspection:
    return net[name].manager.inspection()


def test_translator_gets_what_fits_the_role() -> None:
    net = Net(["alice", "mix1", "mix2"])
    number = net.open("alice", ["mix1", "mix2"])
    net.run(2)
    assert isinstance(circuits_of(net, "alice").ipsec_info(number), SourceIpsecInfo)
    for name, kind in (("mix1", RelayIpsecInfo), ("mix2", ExitIpsecInfo)):
        [circuit] = circuits_of(net, name).of_others()
        assert isinstance(circuits_of(net, name).ipsec_info(circuit.number), kind)


def test_circuit_that_waits_for_a_link_has_no_ipsec_information() -> None:
    net = Net(["alice", "mix1"])
    connections = CircuitTable()
    number = connections.new_number()
    connections.put_source(RequestedCircuit(number, net.path("mix1"), BOB_V4))
    for asked in (number, number + 1):
        with pytest.raises(InternalError):
            connections.request_ipsec_info(asked)


def test_adjacent_nodes_share_one_circuit_address_and_no_three_do() -> None:
    net = Net(["alice", "mix1", "mix2", "mix3"])
    number = net.open("alice", ["mix1", "mix2", "mix3"])
    net.run(2)
    info = circuits_of(net, "alice").ipsec_info(number)
    assert isinstance(info, SourceIpsecInfo)
    for address in [sas.near for sas in info.hops]:
        knowing = [
            name
            for name in ("mix1", "mix2", "mix3")
            if address in circuits_of(net, name).addresses()
        ]
        assert knowing in (["mix1"], ["mix1", "mix2"], ["mix2", "mix3"])


def test_removed_circuit_leaves_no_address_behind() -> None:
    net = Net(["alice", "mix1", "mix2"])
    number = net.open("alice", ["mix1", "mix2"])
    net.run(2)
    net["alice"].manager.close(number, net.now)
    net.pump(net["alice"])
    net.run(2)
    for name in net.hosts:
        circuits = circuits_of(net, name)
        assert not circuits.addresses()
        assert circuits.of_others() == circuits.own() == []

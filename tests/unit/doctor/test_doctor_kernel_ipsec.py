"""What the doctor says about the kernel's IPsec."""

import errno

from doctor_setups import DEFAULTS, LACKS, WORKS, only, refuse, setup

from overlay.config import (
    IpsecSettings,
    NetworkSettings,
    SelectionSettings,
)
from overlay.doctor import Purpose, kernel, network, rights
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.netlink import NetlinkError
from overlay.system.iptables import Iptables
from overlay.system.nftables import Nftables

NO_ESP, NO_CIPHER = (
    NetlinkError(errno.EPROTONOSUPPORT),
    NetlinkError(errno.ENOSYS, "Requested not found"),
)


ALL_WORK = dict.fromkeys(SUITES, (None, None))


def test_settings_that_no_kernel_can_do_are_told_with_what_to_write():
    assert only(kernel.kernel_settings(DEFAULTS)).outcome is WORKS
    long = setup(selection=SelectionSettings(hops=5))
    finding = only(kernel.kernel_settings(long))
    assert (finding.outcome, finding.needed_for) == (LACKS, (Purpose.KERNEL,))
    assert "hops = 4" in finding.said


def suites(verdicts, **ipsec):
    return kernel.esp_suites(setup(ipsec=IpsecSettings(**ipsec)), lambda: verdicts)


def test_every_suite_is_shown_by_the_kernels_names():
    esp, *each = suites(ALL_WORK)
    assert esp.outcome is WORKS
    assert len(each) == len(SUITES)
    assert {finding.outcome for finding in each} == {WORKS}
    assert each[0].said == "rfc4106(gcm(aes))"


def test_only_the_configured_suites_are_needed():
    lacking = ALL_WORK | {4: (None, NO_CIPHER), 11: (NO_CIPHER, NO_CIPHER)}
    chacha = next(each for each in suites(lacking) if "chacha20" in each.subject)
    assert (chacha.outcome, chacha.needed_for) == (LACKS, (Purpose.ADVICE,))
    assert "over IPv6" in chacha.said
    assert "load its module" in chacha.said
    chacha = next(each for each in suites(lacking, esp_suite=4) if "chacha20" in each.subject)
    assert chacha.needed_for == (Purpose.KERNEL,)


def test_a_kernel_without_esp_is_one_finding_with_the_modules_name():
    nothing = dict.fromkeys(SUITES, (NO_CIPHER, NO_CIPHER)) | {5: (NO_ESP, NO_ESP)}
    finding = only(suites(nothing))
    assert finding.outcome is LACKS
    assert "esp4 and esp6" in finding.said


def test_a_kernel_without_xfrm_is_told_in_its_own_words():
    finding = only(kernel.esp_suites(DEFAULTS, refuse))
    assert (finding.outcome, finding.needed_for) == (LACKS, (Purpose.KERNEL,))


def test_a_node_runs_without_cutting_large_packets_and_is_told_what_it_lacks():
    lacks = only(kernel.large_packets(setup(ipsec=IpsecSettings(backend="xfrm")), refuse))
    assert (lacks.outcome, lacks.needed_for) == (LACKS, (Purpose.ADVICE,))
    assert "run as root" in lacks.said
    assert only(kernel.large_packets(DEFAULTS, lambda: None)).outcome is WORKS


def test_flow_labels_are_cleared_by_the_filter_or_by_traffic_control_or_not_at_all():
    def said(filter_type, attempt):
        return only(kernel.flow_labels(DEFAULTS, filter_type, attempt))

    assert "packet filter" in said(Nftables, refuse).said
    assert "traffic control" in said(Iptables, lambda: None).said
    lacks = said(Iptables, refuse)
    assert (lacks.outcome, lacks.needed_for) == (LACKS, (Purpose.KERNEL,))


def test_a_kernel_without_traffic_control_has_two_mechanisms():
    lacks = only(rights.traffic_control(DEFAULTS, refuse))
    assert (lacks.outcome, lacks.needed_for) == (LACKS, (Purpose.ADVICE,))
    assert only(rights.traffic_control(DEFAULTS, lambda: None)).outcome is WORKS


def test_encapsulation_is_needed_for_the_families_that_the_node_listens_on():
    four = setup(network=NetworkSettings(listen=(network.Endpoint("0.0.0.0", 4500),)))
    v4, v6 = kernel.udp_encapsulation(four, refuse)
    assert (v4.outcome, v6.outcome) == (LACKS, LACKS)
    assert (v4.needed_for, v6.needed_for) == ((Purpose.KERNEL,), (Purpose.ADVICE,))

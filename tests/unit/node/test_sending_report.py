"""A host that refuses the node's datagrams is told from nodes that are silent."""

import logging

from overlay.node.sending_report import SendingReport


def test_a_filter_that_refuses_datagrams_is_logged_once_and_its_end_too(caplog):
    caplog.set_level(logging.INFO)
    counters = {}
    report = SendingReport(lambda: counters)

    def after(sent, refused):
        counters["udp_sent"] = counters.get("udp_sent", 0) + sent
        counters["udp_dropped_EPERM"] = counters.get("udp_dropped_EPERM", 0) + refused
        report.check(0.0)
        return report.problem() is not None

    assert [after(0, 0), after(9, 0), after(5, 5)] == [False] * 3
    assert [after(0, 1), after(0, 0), after(1, 30)] == [True] * 3
    assert [after(2, 0), after(0, 0)] == [False] * 2
    assert caplog.messages == ["sending.refused", "sending.accepted"]
    after(0, 4)
    assert "packet filter of this host refuses the datagrams" in report.problem()

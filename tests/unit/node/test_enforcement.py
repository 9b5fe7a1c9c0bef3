import trio
import trio.testing

from overlay.errors import BackendError
from overlay.node.shells import enforcement as module
from overlay.node.shells.enforcement import Enforcement
from overlay.system.host_events import FilterChanged, Overrun


class Part:
    """State in a kernel that is a list of what was removed."""

    def __init__(self, *lost, refuses=False):
        self.lost, self.refuses, self.heard = list(lost), refuses, []

    def hear(self, events):
        self.heard += events

    def disturbed(self):
        return bool(self.lost)

    def missing(self):
        return tuple(self.lost)

    def repair(self):
        if self.refuses:
            raise BackendError("repairing failed (Operation not permitted).")
        lost, self.lost = tuple(self.lost), []
        return lost


def test_what_is_missing_is_put_back_counted_and_logged(caplog):
    enforcement = Enforcement([Part("routes"), Part("packet filter", "routes")])
    assert enforcement.missing() == ("routes", "packet filter")
    enforcement.check((FilterChanged(1),))
    assert enforcement.missing() == ()
    assert enforcement.repaired == {"routes": 2, "packet filter": 1}
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "kill_switch.repaired what=routes times=1",
        "kill_switch.repaired what=packet filter times=1",
        "kill_switch.repaired what=routes times=2",
    ]


def test_a_check_that_finds_nothing_says_nothing(caplog):
    part = Part()
    enforcement = Enforcement([part])
    enforcement.check((Overrun(),))
    assert (part.heard, enforcement.repaired, caplog.records) == ([Overrun()], {}, [])


def test_what_one_part_is_refused_keeps_no_other_from_its_repair(caplog):
    refusing, other = Part("routes", refuses=True), Part("packet filter")
    enforcement = Enforcement([refusing, other])
    for _ in range(3):
        enforcement.check()
    assert (enforcement.refused, enforcement.repaired["packet filter"]) == (3, 1)
    assert enforcement.missing() == ("routes",)
    refusals = [r for r in caplog.records if r.message.startswith("kill_switch.not_repaired")]
    assert len(refusals) == 1, "logged when it begins"
    refusing.refuses = False
    enforcement.check()
    assert enforcement.missing() == ()


def test_another_program_that_repeats_itself_fills_no_log(caplog):
    part = Part()
    enforcement = Enforcement([part])
    for _ in range(300):
        part.lost.append("routes")
        enforcement.check()
    assert enforcement.repaired["routes"] == 300
    assert len(caplog.records) == 20 + 3


def test_an_error_that_no_part_expects_is_a_refusal_and_no_end(caplog):
    class Broken(Part):
        def repair(self):
            raise OSError(24, "Too many open files")

    enforcement = Enforcement([Broken(), Part("routes")])
    enforcement.check()
    assert (enforcement.refused, enforcement.repaired["routes"]) == (1, 1)


class Notices:
    """Notifications of a host on which nothing changes, or whose sockets fail."""

    opened = 0

    def __init__(self, fails=False):
        self.fails = fails
        type(self).opened += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    async def receive(self):
        if self.fails:
            raise BackendError("reading the kernel's notifications failed (Input/output error).")
        await trio.sleep_forever()

    def drain(self):
        return []


def run_for(seconds, enforcement):
    async def main():
        with trio.move_on_after(seconds):
            await enforcement.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_refused_repair_is_tried_again_after_waits_that_double(monkeypatch):
    monkeypatch.setattr(module, "HostNotices", Notices)
    refusing = Part("routes", refuses=True)
    enforcement = Enforcement([refusing])
    run_for(60, enforcement)
    assert 8 <= enforcement.refused <= 18


def test_notifications_that_fail_are_asked_for_anew(monkeypatch, caplog):
    monkeypatch.setattr(module, "HostNotices", lambda: Notices(fails=True))
    monkeypatch.setattr(Notices, "opened", 0)
    run_for(10, Enforcement([Part()]))
    assert Notices.opened > 5
    assert len(caplog.records) == 1, "logged when it begins"


def test_what_changed_before_the_first_notification_is_put_back_at_once(monkeypatch):
    monkeypatch.setattr(module, "HostNotices", Notices)
    part = Part()
    enforcement = Enforcement([part])
    part.disturbed = lambda: False
    part.lost = ["traffic control"]
    run_for(0.1, enforcement)
    assert (part.lost, part.heard) == ([], [Overrun()])


class Hearing(Notices):
    """Notifications of a host on which something changes at given times."""

    changes_at = ()

    def __init__(self):
        super().__init__()
        self.left = list(self.changes_at)

    async def receive(self):
        if not self.left:
            await trio.sleep_forever()
        await trio.sleep_until(self.left.pop(0))
        return [Overrun()]


class CostlyPart(Part):
    """State whose check takes a tenth of a second."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.checked_at = clock, []

    def repair(self):
        self.checked_at.append(self.clock.current_time())
        self.clock.jump(0.1)
        return super().repair()


def checks_during(monkeypatch, seconds, changes_at):
    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    monkeypatch.setattr(module, "HostNotices", Hearing)
    monkeypatch.setattr(Hearing, "changes_at", tuple(began + each for each in changes_at))
    part = CostlyPart(clock)

    async def main():
        with trio.move_on_after(seconds):
            await Enforcement([part]).run()

    trio.run(main, clock=clock)
    return [each - began for each in part.checked_at]


def test_a_change_soon_after_a_check_is_handled_at_once(monkeypatch):
    first, second, third = checks_during(monkeypatch, 5, [0.15, 0.3])
    assert first < 0.01
    assert second - 0.15 < 0.05
    assert third - 0.3 < 0.05


def test_changes_without_end_take_a_tenth_of_a_processor(monkeypatch):
    checks = checks_during(monkeypatch, 60, [each * 0.01 for each in range(6000)])
    assert 60 <= len(checks) <= 90

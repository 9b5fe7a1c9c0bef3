"""Requests that arrive at the same time are served by one call."""

import pytest
import trio
import trio.testing

from overlay.errors import BackendError
from overlay.node.shared_requests import SharedRequests


def run(outcomes, requests):
    """Make requests at the same time; return the calls and what each request got."""
    calls, got = [], {}

    def serve(together):
        calls.append([*together])
        return [outcomes[each[0]] for each in together]

    async def main():
        shared = SharedRequests(serve)

        async def one(name):
            try:
                got[name] = await shared.request([name])
            except BackendError as error:
                got[name] = str(error)

        async with trio.open_nursery() as nursery:
            for name in requests:
                nursery.start_soon(one, name)
        await one("late")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return calls, got


def test_requests_of_one_moment_share_a_call_and_each_gets_its_own_outcome():
    outcomes = {"a": ["path a"], "b": BackendError("refused."), "late": ["path late"]}
    calls, got = run(outcomes, ["a", "b"])
    assert sorted(map(sorted, calls[0])) == [["a"], ["b"]]
    assert calls[1:] == [[["late"]]]
    assert got == {"a": ["path a"], "b": "refused.", "late": ["path late"]}


def test_a_cancelled_request_still_gets_its_path_so_that_its_caller_can_keep_it():
    got = []

    async def main():
        shared = SharedRequests(lambda together: [["path"] for _ in together])
        with trio.CancelScope() as scope:
            scope.cancel()
            got.append(await shared.request(["a"]))
            with pytest.raises(trio.Cancelled):
                await trio.lowlevel.checkpoint()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert got == [["path"]]

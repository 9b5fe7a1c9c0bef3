import contextlib
import functools
import json
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing
from fake_control import PEER, STATUS, FakeService

from overlay.control import (
    ControlClient,
    OpenPathsRequest,
    RequestFailed,
    StopReport,
)
from overlay.control.codec import MAX_REQUEST_BYTES, parse_destination
from overlay.control.server import (
    IDLE_TIMEOUT_S,
    MAX_CONNECTIONS,
    REQUEST_TIMEOUT_S,
    serve_control,
)
from overlay.errors import BackendError, ConfigurationError, InternalError, Malformed

OPEN_NEVER = {
    "method": "open_paths",
    "parameters": {"destinations": ["192.0.2.7"], "strategy": "never"},
}


def serve(path, scenario, *, clock=None):
    """Run ``scenario(service)`` beside a server, then cancel the server."""
    service = FakeService()

    async def program():
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, service, path)
            await scenario(service)
            nursery.cancel_scope.cancel()

    trio.run(program, clock=clock)
    return service


def ask(path, question, **options):
    def blocking():
        with ControlClient(path, **options) as client:
            return question(client)

    return trio.to_thread.run_sync(blocking)


async def converse(path, *lines):
    """Send raw lines and return what came back until the server hung up or fell silent."""
    async with await trio.open_unix_socket(path) as stream:
        answers = []
        for line in lines:
            await stream.send_all(line)
            answers.append(json.loads(await receive_line(stream)))
        return answers


async def is_closed(stream):
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:  # a reset: not all that was sent had been read
        return True


async def receive_line(stream):
    received = b""
    while not received.endswith(b"\n"):
        data = await stream.receive_some()
        if not data:
            return received
        received += data
    return received


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "control.sock"


def test_every_question_gets_its_report(path):
    async def scenario(service):
        assert await ask(path, lambda client: client.status()) == STATUS
        assert await ask(path, lambda client: client.peers()) == [PEER]
        request = OpenPathsRequest((parse_destination("192.0.2.7"),), hops=3, strategy="uniform")
        [opened] = await ask(path, lambda client: client.open_paths(request))
        assert service.requests == [request]
        assert await ask(path, lambda client: client.paths()) == [opened]
        assert await ask(path, lambda client: client.close_path(opened.number)) == 1
        assert await ask(path, lambda client: client.close_path(None)) == 0
        several = OpenPathsRequest((*request.destinations, parse_destination("2001:db8::7")))
        opened = await ask(path, lambda client: client.open_paths(several))
        assert [report.number for report in opened] == [1, 2]
        by_destination = parse_destination("2001:db8::7")
        assert await ask(path, lambda client: client.close_path(by_destination)) == 1
        assert await ask(path, lambda client: client.stop(release=True)) == StopReport(0, 1, 0)

    serve(path, scenario)


def test_stop_is_answered_before_the_node_stops(path):
    async def scenario(service):
        assert await ask(path, lambda client: client.stop()) == StopReport(0, 0, 0)
        await service.stopped.wait()

    serve(path, scenario)


def test_socket_and_its_directory_belong_to_the_owner_alone(path):
    async def scenario(service):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    serve(path, scenario)


def test_socket_file_is_gone_when_the_node_is(path):
    async def scenario(service):
        assert path.exists()

    serve(path, scenario)
    assert not path.exists()


def test_error_of_the_node_arrives_as_its_sentence_and_kind(path):
    async def scenario(service):
        request = OpenPathsRequest((parse_destination("192.0.2.7"),), strategy="none-left")
        with pytest.raises(RequestFailed, match=r"no exit fits\.") as failed:
            await ask(path, lambda client: client.open_paths(request))
        assert failed.value.kind == "NoSuitablePath"
        with pytest.raises(RequestFailed, match="there is no path 9"):
            await ask(path, lambda client: client.close_path(9))

    serve(path, scenario)


def test_answer_with_fewer_reports_than_destinations_is_an_error(path):
    async def scenario(service):
        request = OpenPathsRequest((parse_destination("192.0.2.7"),), strategy="too-few")
        with pytest.raises(Malformed, match="one path report for each destination"):
            await ask(path, lambda client: client.open_paths(request))

    serve(path, scenario)


def test_bug_is_reported_without_its_details_and_serving_goes_on(path, caplog):
    async def scenario(service):
        request = OpenPathsRequest((parse_destination("192.0.2.7"),), strategy="buggy")
        with pytest.raises(InternalError, match="RuntimeError"):
            await ask(path, lambda client: client.open_paths(request))
        assert await ask(path, lambda client: client.status()) == STATUS

    serve(path, scenario)
    assert "control.bug cause=RuntimeError" in caplog.text
    assert "secret detail" not in "".join(r.getMessage() for r in caplog.records)


def test_line_that_is_no_request_is_answered_and_the_connection_lives(path):
    async def scenario(service):
        bad, good = await converse(path, b"\xff{]\n", b'{"method":"status"}\n')
        assert (bad["ok"], bad["kind"]) == (False, "Malformed")
        assert good["ok"] is True

    serve(path, scenario)


def test_request_at_the_limit_is_read_and_one_beyond_it_ends_the_connection(path):
    async def scenario(service):
        at_limit = b'{"method":"status"}'.ljust(MAX_REQUEST_BYTES) + b"\n"
        assert (await converse(path, at_limit))[0]["ok"] is True
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"x" * (MAX_REQUEST_BYTES + 1))
            assert json.loads(await receive_line(stream))["kind"] == "Malformed"
            assert await is_closed(stream)

    serve(path, scenario)


def test_requests_in_one_segment_are_answered_in_order(path):
    async def scenario(service):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b'{"method":"peers"}\n{"method":"paths"}\n{"method":"st')
            assert len(json.loads(await receive_line(stream))["result"]) == 1
            assert json.loads(await receive_line(stream))["result"] == []
            await stream.send_all(b'atus"}\n')
            assert json.loads(await receive_line(stream))["result"]["node_id"] == STATUS.node_id

    serve(path, scenario)


def test_connection_over_the_limit_is_refused_with_a_sentence(path):
    async def scenario(service):
        streams = [await trio.open_unix_socket(path) for _ in range(MAX_CONNECTIONS)]
        for stream in streams:
            await stream.send_all(b'{"method":"paths"}\n')
            assert json.loads(await receive_line(stream))["ok"] is True
        async with await trio.open_unix_socket(path) as extra:
            assert json.loads(await receive_line(extra))["kind"] == "TooManyConnections"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, path, ControlClient.status)  # tries until there is room
            await trio.testing.wait_all_tasks_blocked()
            await streams.pop().aclose()
        assert (await converse(path, b'{"method":"paths"}\n'))[0]["ok"] is True
        for stream in streams:
            await stream.aclose()

    serve(path, scenario)


def test_fifty_commands_at_once_are_all_answered(path):
    async def scenario(service):
        limiter = trio.CapacityLimiter(50)

        def open_one(number):
            with ControlClient(path) as client:
                client.open_paths(OpenPathsRequest((parse_destination(f"192.0.2.{number}"),)))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(
                    functools.partial(trio.to_thread.run_sync, open_one, number, limiter=limiter)
                )
        assert len(service.requests) == 50

    serve(path, scenario)


def test_client_waits_while_the_backlog_is_full(path):
    """A node that is slow to accept looks as full as one that is asked by fifty commands."""
    path.parent.mkdir(mode=0o700)

    async def scenario():
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        with listener, contextlib.ExitStack() as stack:
            await listener.bind(str(path))
            listener.listen(0)
            waiting = [trio.socket.socket(trio.socket.AF_UNIX) for _ in range(2)]
            for each in waiting:
                stack.enter_context(each)
                with contextlib.suppress(BlockingIOError):
                    await each.connect(str(path))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, lambda: ControlClient(path).close())
                await trio.sleep(0.05)  # the client is refused at least once
                for _ in range(2):
                    stack.enter_context((await listener.accept())[0])

    trio.run(scenario)


def test_hang_up_cancels_what_was_asked(path):
    async def scenario(service):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(json.dumps(OPEN_NEVER).encode() + b"\n")
            while not service.requests:
                await trio.lowlevel.checkpoint()
        while not service.cancelled:
            await trio.lowlevel.checkpoint()

    assert serve(path, scenario).cancelled == 1


def test_request_that_takes_too_long_is_cancelled_and_answered(path):
    async def scenario(service):
        started = trio.current_time()
        (answer,) = await converse(path, json.dumps(OPEN_NEVER).encode() + b"\n")
        assert answer["kind"] == "LimitReached"
        assert trio.current_time() - started == pytest.approx(REQUEST_TIMEOUT_S, abs=0.1)

    clock = trio.testing.MockClock(autojump_threshold=0.01)
    assert serve(path, scenario, clock=clock).cancelled == 1


def test_silent_connection_is_closed_after_its_time(path):
    async def scenario(service):
        started = trio.current_time()
        async with await trio.open_unix_socket(path) as stream:
            assert await stream.receive_some() == b""
        assert trio.current_time() - started == pytest.approx(IDLE_TIMEOUT_S, abs=0.1)

    serve(path, scenario, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_cancelled_node_leaves_no_request_running(path):
    async def scenario(service):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(json.dumps(OPEN_NEVER).encode() + b"\n")
        while not service.requests:
            await trio.lowlevel.checkpoint()
        stream.socket.detach()  # stays open past the server's end

    assert serve(path, scenario).cancelled == 1
    assert not path.exists()


def test_socket_of_a_dead_node_is_replaced(path):
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def scenario(service):
        assert await ask(path, lambda client: client.status()) == STATUS

    serve(path, scenario)


def test_socket_of_a_live_node_is_left_alone(path):
    async def scenario(service):
        with pytest.raises(ConfigurationError, match="a node already runs"):
            await serve_control(FakeService(), path)
        assert await ask(path, lambda client: client.status()) == STATUS

    serve(path, scenario)


def test_other_file_in_the_way_is_never_removed(path):
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is no socket"):
        trio.run(serve_control, FakeService(), path)
    assert path.read_text() == "precious"


def test_directory_open_to_others_is_refused(path):
    path.parent.mkdir()
    path.parent.chmod(0o750)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        trio.run(serve_control, FakeService(), path)


def test_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="control_socket"):
        trio.run(serve_control, FakeService(), tmp_path / "file" / "run" / "control.sock")


def test_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(BackendError, match="too long"):
        trio.run(serve_control, FakeService(), tmp_path / "d" / ("x" * 120))


AS_NOBODY = """
import os, socket, sys
os.setuid(65534)
stream = socket.socket(socket.AF_UNIX)
stream.connect(sys.argv[1])
try:
    stream.sendall(b'{"method":"status"}\\n')
    print(len(stream.recv(1)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_process_is_turned_away_even_with_the_file_system_open():
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run" / "control.sock"

        async def scenario(service):
            for place in (path, path.parent, path.parent.parent):
                place.chmod(0o777)
            command = [sys.executable, "-c", AS_NOBODY, str(path)]
            asked = await trio.run_process(command, capture_stdout=True)
            assert asked.stdout == b"0\n"

        serve(path, scenario)


def test_client_without_a_node_says_how_to_start_one(tmp_path):
    with pytest.raises(ConfigurationError, match="overlay up"):
        ControlClient(tmp_path / "none.sock")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="is a file and no control socket"):
        ControlClient(tmp_path / "file")


def test_client_tells_a_lost_connection_and_an_answer_that_never_comes(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        client = ControlClient(path, timeout_s=0.05)
        with client, pytest.raises(BackendError, match="did not answer in time"):
            client.status()
        client = ControlClient(path)
        for _ in range(2):
            listener.accept()[0].close()
        with client, pytest.raises(BackendError, match="closed the connection"):
            client.status()

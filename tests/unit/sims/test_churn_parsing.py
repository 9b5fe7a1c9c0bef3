import os

import pytest

from overlay.errors import ConfigurationError
from sims.world.churn import PRESETS, convert, parse_duration, parse_model, read_trace
from sims.world.churn.lifetimes import Exponential, Observed, Pareto, Weibull

TRACE = """node,on_s,off_s
peer-a,0,5400
peer-b,60.5,7200
peer-a,9000,10800
"""


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "sessions.csv"
    path.write_text(TRACE)
    return path


def test_presets_by_name():
    assert parse_model("kad2007") is PRESETS["kad2007"]
    assert parse_model(" ipfs2022 ") is PRESETS["ipfs2022"]


def test_preset_constants_are_those_that_were_published():
    on, off = PRESETS["kad2007"].on, PRESETS["kad2007"].off
    assert on.mean() / 60 == pytest.approx(247.1, abs=0.1)
    assert off.mean() / 60 == pytest.approx(908.0, abs=0.1)
    assert PRESETS["kad2007"].availability() == pytest.approx(0.2140, abs=1e-4)
    assert PRESETS["kad2007-stable"].on.mean() / 60 == pytest.approx(617.5, abs=0.1)
    assert PRESETS["kad2007-stable"].availability() == pytest.approx(0.405, abs=1e-3)
    assert PRESETS["ipfs2022"].on.survival(7200) == pytest.approx(0.5, abs=1e-3)
    assert PRESETS["ipfs2022"].on.survival(28_800) == pytest.approx(0.2, abs=1e-3)
    assert PRESETS["bamboo"].on.survival(84) == pytest.approx(0.5)
    assert PRESETS["none"].residual_survival(1e9) == 1.0


def test_distributions_in_text():
    model = parse_model("weibull(2h, 0.6) / pareto(30min, 2.5)")
    assert model.on == Weibull(7200.0, 0.6)
    assert model.off == Pareto(1800.0, 2.5)
    assert parse_model("exponential(90 s)").on == Exponential(90.0)
    assert parse_model("exponential(90s)").off is None


def test_trace_gives_sessions_and_absences_and_can_be_replayed(trace):
    model = parse_model("trace(sessions.csv)", trace.parent)
    assert model.on == Observed([5400.0, 1800.0, 7139.5])
    assert model.off == Observed([3600.0])
    mixed = parse_model("trace(sessions.csv) / exponential(2h)", trace.parent)
    assert mixed.off == Exponential(7200.0)
    replayed = list(read_trace(trace).replay())
    assert [(event.time_s, event.node, event.online) for event in replayed] == [
        (0.0, 0, True),
        (60.5, 1, True),
        (5400.0, 0, False),
        (7200.0, 1, False),
        (9000.0, 0, True),
        (10800.0, 0, False),
    ]


@pytest.mark.parametrize("folder", ["plain", "results (1)"])
def test_a_trace_s_path_may_hold_slashes_and_pairs_of_parentheses(trace, folder):
    place = trace.parent / folder / "sessions.csv"
    place.parent.mkdir()
    trace.rename(place)
    for text in (f"trace({place})", f"trace({folder}/sessions.csv)"):
        assert len(parse_model(text, trace.parent).on.lengths_s) == 3
        mixed = parse_model(f"{text} / exponential(2h)", trace.parent)
        assert mixed.off == Exponential(7200.0)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kad2008", "kad2008"),
        ("weibull(2h)", "takes 2 values, not 1"),
        ("weibull(2h, x)", "'x' is not a number"),
        ("weibull(2, 0.6)", "'2' is not a length of time"),
        ("weibull(0s, 0.6)", "impossible: scale must be a positive number"),
        ("pareto(0s, 2)", "impossible: scale must be a positive number"),
        ("exponential(0s)", "impossible: mean must be a positive number"),
        ("fixed(0s)", "impossible: length must be a positive number"),
        ("pareto(1h, 0.9)", "must exceed 1"),
        ("weibull(1h, 0.001)", "its sessions last more than 100 years in the mean"),
        ("weibull(1h, 1e-320)", "its sessions last more than 100 years in the mean"),
        ("exponential(1h)/weibull(1h, 0.002)", "its absences last more than 100 years"),
        ("fixed(999999999999d)", "its sessions last more than 100 years"),
        ("pareto(1d, 1.000001)", "its sessions last more than 100 years"),
        ("exponential(1ms)", "its sessions last 0.001 s in the mean, too short to join in"),
        ("exponential(1h) /", "no session model"),
        ("trace(absent.csv)", "absent.csv cannot be read: No such file"),
        ("trace(/nope.csv)", "/nope.csv cannot be read: No such file"),
        ("trace(/tmp)", "/tmp cannot be read: it is a directory"),
        ("trace(/dev/zero)", "/dev/zero cannot be read: it is no regular file"),
        ("(" * 9000, "no session model"),
        ("", "no session model"),
    ],
)
def test_a_bad_model_gets_one_sentence(text, names, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        parse_model(text, tmp_path)
    assert names in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "Line 1"),
        (b"a,b,c\n", "Line 1"),
        (b"node,on_s,off_s\n", "no session"),
        (b"node,on_s,off_s\na,1\n", "Line 2"),
        (b"node,on_s,off_s\na,2,1\n", "Line 2"),
        (b"node,on_s,off_s\na,-1,1\n", "Line 2"),
        (b"node,on_s,off_s\na,0,inf\n", "Line 2"),
        (b"node,on,off\na,0,1\n", "Line 1 of the trace"),
        (b"node,on,off\na,0,1\n", "must say the unit of on: write on_s or on_ms"),
        (b"node,on_s,off_s\na,1700000000000,1700000001000\n", "looks like milliseconds"),
        (b"time_s,node,event\n0,a,up\n1,a,sideways\n", "Line 3"),
        (b"on_s,off_s\n0,1\n", "must name a column node"),
        (b"0.5 1 JOIN\nsoon 2 JOIN\n", "Line 2"),
        (b"node,on_s,off_s\na,nan,1\n", "Line 2"),
        (b"node,on_s,off_s\na,0,9\na,10,10.0004\n", "Line 3"),
        (b"node,on_s,off_s\n,0,1\n", "Line 2"),
        (b"node,on_s,off_s\na,0,5\nb,0,1\na,4,9\n", "overlap at 4 s"),
        (b"\xff\xfe\x00", "no UTF-8"),
        (b"node,on_s,off_s\n" + b"a" * 500, "longer than 400"),
        (b'node,on_s,off_s\n"a,0,1\n', "Line 2"),
        (b"node,on_s,off_s\na\x00,0,1\x00\n", "Line 2"),
    ],
)
def test_an_unreadable_trace_gets_one_sentence(content, names, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_trace(path)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


SESSIONS = (((0.0, 5400.0), (9000.0, 10800.0)), ((60.0, 10800.0),))

FORMS = {
    "spaces and capitals": " Node , On_S ,OFF_S\na, 0 ,5400\na,9000,10800\nb,60,10800\n",
    "another order, extra columns": "off_s,country,node,on_s\n5400,de,a,0\n10800,de,a,9000\n"
    "10800,fr,b,60\n",
    "comments and empty lines": "# made by hand\n\nnode,on_s,off_s\n# the first\na,0,5400\n\n"
    "a,9000,10800\nb,60,10800\n",
    "byte-order mark and CRLF": "\ufeffnode,on_s,off_s\r\na,0,5400\r\na,9000,10800\r\n"
    "b,60,10800\r\n",
    "semicolons": "node;on_s;off_s\na;0;5400\na;9000;10800\nb;60;10800\n",
    "tabs": "node\ton_s\toff_s\na\t0\t5400\na\t9000\t10800\nb\t60\t10800\n",
    "milliseconds": "node,on_ms,off_ms\na,0,5400000\na,9000000,10800000\nb,60000,10800000\n",
    "minutes": "peer,start_min,end_min\na,0,90\na,150,180\nb,1,180\n",
    "still on-line at the end": "node,on_s,off_s\na,0,5400\na,9000,10800\nb,60,\n",
    "length 0": "node,on_s,off_s\na,0,5400\na,6000,6000\na,9000,10800\nb,60,10800\n",
    "up and down": "time_s,node,event\n0,a,up\n60,b,JOIN\n5400,a,down\n9000,a,up\n10800,a,down\n",
    "up twice, down twice": "time_s,node,state\n0,a,online\n60,b,1\n90,b,1\n5400,a,offline\n"
    "5500,a,offline\n9000,a,online\n10800,a,0\n",
    "down first": "time_s,node,event\n0,x,up\n0,x,down\n5400,a,down\n60,b,up\n9000,a,up\n"
    "10800,a,down\n",
    "OverSim": "# OverSim\n0 1 JOIN\n60.0 2 JOIN\n100 1 PUT key value\n5400 1 LEAVE\n9000 1 JOIN\n"
    "10800 1 LEAVE\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_traces_are_read_as_others_write_them(form, tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(FORMS[form].encode())
    assert tuple(sorted(read_trace(path).sessions)) == SESSIONS
    assert convert.main([str(path), str(tmp_path / "sessions.csv")]) == 0
    text = (tmp_path / "sessions.csv").read_text()
    assert text.startswith("node,on_s,off_s\nnode-1,")
    assert tuple(sorted(read_trace(tmp_path / "sessions.csv").sessions)) == SESSIONS
    assert convert.main([str(path), str(tmp_path / "sessions.csv")]) == 1, "never written over"


def test_sessions_too_short_to_join_in_are_refused_in_a_trace_as_well(tmp_path):
    (tmp_path / "short.csv").write_text("node,on_s,off_s\na,0,0.5\na,1,1.25\n")
    with pytest.raises(ConfigurationError, match=r"last 0\.375 s in the mean"):
        parse_model("trace(short.csv)", tmp_path)


def test_absences_may_be_short():
    assert parse_model("exponential(1h) / fixed(1ms)").off.mean() == 0.001


def test_a_directory_is_no_trace(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_trace(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="cannot be read: it is no regular file"):
        parse_model("trace(pipe)", tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90min", 5400), ("1.5h", 5400), ("5m", 300), ("250 ms", 0.25), ("2d", 172800)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["-5m", "5", "5 weeks", "1e3s"])
def test_a_length_of_time_has_a_unit_and_no_sign(text):
    with pytest.raises(ConfigurationError, match="is not a length of time"):
        parse_duration(text)

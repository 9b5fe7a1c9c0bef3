import itertools

from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.system.segmentation import MAX_RUN_BYTES, MAX_SEGMENTS, runs_of, split_segments

A, B = Endpoint("192.0.2.1", 4500), Endpoint("2001:db8::1", 4500)

batches = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 700, 1200, 1400, 9000, 65_507]).map(bytes), st.sampled_from([A, B])
    ),
    max_size=200,
)


def sizes(batch):
    return [[len(datagram) for datagram in run.datagrams] for run in runs_of(batch)]


def test_equal_datagrams_to_one_destination_share_a_run_and_the_last_may_be_shorter():
    assert sizes([(bytes(100), A)] * 3 + [(bytes(40), A), (bytes(40), A)]) == [
        [100, 100, 100, 40],
        [40],
    ]


def test_a_longer_datagram_or_another_destination_begins_a_run():
    assert sizes([(bytes(10), A), (bytes(20), A), (bytes(20), B)]) == [[10], [20], [20]]


def test_an_empty_datagram_travels_alone():
    assert sizes([(b"", A), (b"", A), (b"x", A)]) == [[0], [0], [1]]


def test_a_run_holds_64_segments_and_not_one_more():
    assert sizes([(b"x", A)] * 65) == [[1] * 64, [1]]


def test_a_run_holds_65000_bytes_and_not_one_more():
    assert sizes([(bytes(6500), A)] * 11) == [[6500] * 10, [6500]]


@given(batches)
def test_runs_keep_the_order_and_every_bound(batch):
    runs = list(runs_of(batch))
    assert [(d, run.endpoint) for run in runs for d in run.datagrams] == batch
    for run in runs:
        *full, last = run.datagrams
        assert all(len(datagram) == run.segment_bytes for datagram in full)
        assert len(last) <= run.segment_bytes
        assert len(run.datagrams) <= MAX_SEGMENTS
        assert len(run.datagrams) == 1 or sum(map(len, run.datagrams)) <= MAX_RUN_BYTES


@given(batches)
def test_splitting_undoes_what_a_run_put_together(batch):
    for run in runs_of(batch):
        together = memoryview(b"".join(run.datagrams))
        assert split_segments(together, run.segment_bytes) == list(run.datagrams)


def test_without_a_segment_size_it_is_one_datagram():
    for size, segment in itertools.product((0, 5), (0, 5, 9)):
        assert split_segments(memoryview(bytes(size)), segment) == [bytes(size)]

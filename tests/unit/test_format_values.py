"""The values that the pages of docs/formats state are those of the code."""

from pathlib import Path

import pytest

from overlay.apm import carrier, control, rekey_source
from overlay.apm.carrier import MAX_FRAGMENT_BYTES, MAX_MESSAGE_BYTES, SIGNALLING_PORT
from overlay.apm.control import CONTROL_BYTES, CONTROL_PORT, ECHO_BYTES, TAG_BYTES, TICKET_BYTES
from overlay.apm.geometry import GEOMETRIES, LAYER_BYTES, NESM_VERSION
from overlay.apm.settings import ApmSettings
from overlay.config.sections import NetworkSettings
from overlay.control import client, codec
from overlay.control.client import RESPONSE_TIMEOUT_S
from overlay.control.codec import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from overlay.control.server import IDLE_TIMEOUT_S, MAX_CONNECTIONS, REQUEST_TIMEOUT_S
from overlay.control.service import MAX_DESTINATIONS
from overlay.dht import (
    calls,
    descriptor,
    envelope,
    messages,
    publishing,
    responder,
    topology_store,
)
from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.settings import DhtSettings
from overlay.dht.topology_store import MAX_HINTS, SCHEMA_VERSION
from overlay.hop_limit import MAX_HOPS
from overlay.ipsec.interface import MIN_SPI
from overlay.ipsec.pieces import MAX_PIECES
from overlay.link import cookie, endpoint_proof, lifetimes, machine, outgoing, size_search
from overlay.link.handshake import MESSAGE_BYTES, VERSION, MessageType
from overlay.link.settings import LinkSettings
from overlay.node import path_file
from overlay.node.path_file import MAX_FILE_BYTES, MAX_STORED
from overlay.node.unjoined import LEARNING_S

_ROOT = Path(__file__).parents[2]
_NUMBER_WORDS = {4: "four", 8: "eight"}


def _circuit_control() -> list[str]:
    apm = ApmSettings()
    half_s = apm.closing_copies * apm.closing_interval_s
    return [
        f"port {CONTROL_PORT} at both ends",
        f"## Message ({CONTROL_BYTES} bytes, or",
        f"version (1) = {control.CONTROL_VERSION} |",
        f"zeros to {CONTROL_BYTES} bytes",
        f"echo ({ECHO_BYTES})",
        f"ticket ({TICKET_BYTES})",
        f"tag ({TAG_BYTES})",
        f"(4 each, at least {MIN_SPI})",
        f"repeated after {apm.confirm_retry_s:g}, {2 * apm.confirm_retry_s:g}, ",
        f"then PING every {apm.keepalive_interval_s:g} s",
        f"sends REFUSE twice ({apm.closing_interval_s:g} s apart)",
        f"forgets everything {2 * half_s:g} s after the first",
        f"of {apm.answer_patience_s:g} s (`answer_patience_s`)",
        f"| unconfirmed | {apm.setup_timeout_s:g} s | source |",
        f"| waiting for the link to the next hop | {apm.link_timeout_s:g} s |",
        f"| never used | {apm.unconfirmed_expiry_s:g} s | hop |",
        f"ticket for {apm.lent_address_hold_s:g} s (`lent_address_hold_s`)",
        f"| idle | {apm.idle_expiry_s:g} s | hop |",
        f"| lifetime | {apm.lifetime_s:,.0f} s,",
        f"the old backward SA after {apm.retired_sa_s:g} s;",
        f"removes both old ones after {apm.retired_sa_s:g} s",
        f"{apm.rekey_retry_s:g}, {2 * apm.rekey_retry_s:g}, {4 * apm.rekey_retry_s:g}, "
        f"{8 * apm.rekey_retry_s:g}, {rekey_source.LONGEST_PAUSE_S:g}, ",
        f"a hop silent for {apm.rekey_timeout_s:g} s ends the circuit",
        f"| {apm.rekey_after_s:g} s, less up to a tenth at random |",
        f"| {apm.rekey_after_bytes >> 30} GiB or 2^{apm.rekey_after_packets.bit_length() - 1} ",
        f"one in {apm.rekey_pause_s:g} s (`rekey_pause_s`)",
        f"0 to {apm.rekey_spread_s:g} s (`rekey_spread_s`)",
        f"to {rekey_source.SHORT_SPREAD_S:g} s where the suite ends soon",
        f"({2 * apm.rekey_after_s + 4 * apm.rekey_timeout_s:g} s)",
    ]


def _onion() -> list[str]:
    apm = ApmSettings()
    waits = [apm.carrier_retry_s * 2**attempt for attempt in range(apm.carrier_attempts)]
    return [
        f"*K* = {MAX_HOPS} slots",
        f"version (1) = {NESM_VERSION} |",
        f"sealed layer ({LAYER_BYTES})",
        f"## Layer ({LAYER_BYTES} bytes)",
        *(
            f"| {sizes.encapsulated_key_bytes:,} | {sizes.slot_bytes:,} | {sizes.message_bytes:,} |"
            for sizes in GEOMETRIES.values()
        ),
        f"SPIs below {MIN_SPI} are malformed",
        f"valid for more than {apm.max_onion_validity_s:g} s from now",
        f"port {SIGNALLING_PORT} at both ends",
        f"fragment (at most {MAX_FRAGMENT_BYTES:,})",
        f"repeats what is missing after {waits[0]:g} s, {waits[1]:g} s, {waits[2]:g} s, ",
        f"gives up after {sum(waits):g} s",
        f"forgets half a message after {carrier.PARTIAL_S:g} s",
        f"knows a whole one for {carrier.DELIVERED_S:g} s",
        f"| message on the carrier | {MAX_MESSAGE_BYTES // MAX_FRAGMENT_BYTES} fragments |",
        f"| outgoing messages | {carrier.MAX_OUTGOING:,}, "
        f"of them {carrier.MAX_OUTGOING_PER_PEER} to one neighbour |",
        f"several fragments | {carrier.MAX_PARTIAL}, "
        f"of them {carrier.MAX_PARTIAL_PER_PEER} of one neighbour |",
        f"| remembered message ids | {carrier.MAX_DELIVERED:,}, "
        f"of them {carrier.MAX_DELIVERED_PER_PEER:,} of one neighbour |",
        f"| onions that wait for a link | {apm.max_held_onions}, "
        f"of them {apm.max_held_onions_per_neighbour} of one neighbour |",
        f"| replay cache | {apm.max_replay_entries:,} layers, "
        f"of them {apm.max_replay_entries_per_neighbour:,} of one neighbour;",
        f"| validity claimed | {apm.max_onion_validity_s:g} s |",
    ]


def _link_handshake() -> list[str]:
    link = LinkSettings()
    old_pairs = machine.MAX_OLD_PAIRS
    return [
        f"changes every {cookie.COOKIE_ROTATION_S:g} s",
        f"after {link.retry_initial_s:g} s, then at doubling intervals up to {link.retry_max_s:g}"
        " s",
        f"gives up after {link.handshake_timeout_s:g} s",
        f"for at most {outgoing.MAX_COOKIES} cookies an attempt",
        f"{outgoing.STAGGER_S * 1000:g} ms apart (RFC 8305)",
        f"have {link.retired_sa_s:g} s of grace, at most {_NUMBER_WORDS[old_pairs]} of them",
        f"replaces it after {link.rekey_after_s / 60:g} minutes",
        f"carried {link.rekey_after_bytes >> 30} GiB or "
        f"2^{link.rekey_after_packets.bit_length() - 1} packets",
        f"up to {machine.MAX_REKEY_PAUSE_S:g} s. Otherwise",
        f"its pair is {lifetimes.hard_s(link):,.0f} s old (`hard_s`)",
        f"within {link.endpoint_silence_s:g} s (`endpoint_silence_s`)",
        f"challenged as well, every {endpoint_proof.ASK_S * 1000:g} ms,",
        f"every {endpoint_proof.ASK_LATER_S * 1000:g} ms. Its echo",
        f"and {endpoint_proof.HEAD_START_S * 1000:g} ms more",
        f"The first probe has {size_search.BASE_BYTES:,} bytes",
        f"until they are {size_search.GRAIN_BYTES} bytes apart",
        f"{size_search.MIN_BYTES} are tried",
        f"every {size_search.CONFIRM_S:g} s; if it fails",
        f"Every {size_search.RAISE_S:g} s the largest size",
        f"at most {_NUMBER_WORDS[MAX_PIECES]}. The peer joins them",
        f"| links in all | {link.max_links:,} |",
        f"| links that other nodes may open | {link.max_accepted_links} |",
        f"IPv6 /56 may open | {link.max_accepted_links_per_prefix} |",
        f"signatures together | {NetworkSettings().unauthenticated_cpu_percent} % of a core |",
        f"| half-open links opened with a cookie | {link.max_half_open} |",
        f"with a cookie from one IPv4 /24 or IPv6 /56 | {link.max_half_open_per_prefix} |",
        f"| half-open links opened without a cookie | {link.max_unproved_half_open} |",
        f"without a cookie from one IPv4 /24 or IPv6 /56 | "
        f"{link.max_unproved_half_open_per_prefix} |",
        f"| initiations a second without a cookie | {link.cookie_above_initiations_per_s} |",
        f"half as many for one prefix | {link.max_cookie_replies_per_s:,} |",
        f"| distance of a timestamp from our time | {link.max_clock_skew_s:g} s |",
        f"| timestamps remembered | {link.max_known_initiators:,} initiators |",
        f"| old pairs of one link | {old_pairs} |",
    ]


def _dht_rpc() -> list[str]:
    dht = DhtSettings()
    minutes = COOKIE_ROTATION_S // 60
    return [
        f"request [version = {envelope.VERSION}, network tag ({envelope.NETWORK_TAG_BYTES}), kind,"
        f" request id ({envelope.REQUEST_ID_BYTES})",
        f"cookie (0|{envelope.COOKIE_BYTES})",
        f"[descriptor (1..{descriptor.MAX_DESCRIPTOR_BYTES})]",
        f"| datagram | {envelope.MAX_DATAGRAM_BYTES:,} |",
        f"| descriptor | {descriptor.MAX_DESCRIPTOR_BYTES:,} |",
        f"at most {messages.MAX_CONTACTS} are read",
        f"| cookie | valid {minutes} to {2 * minutes} minutes; the caller uses it for {minutes} |",
        f"| challenges that a node sends | {dht.challenges_per_s:,} a second,",
        f"| challenges that a caller follows | {calls.MAX_CHALLENGES} a",
        f"changes every {minutes} minutes",
        f"fewer than {responder.STORE_SLACK} k contacts",
        f"tolerance of {descriptor.CLOCK_SKEW_S // 60} minutes",
        f"Its subnet has fewer than {dht.max_records_per_source} records",
        f"{publishing.FIRST_REPUBLISH_S / 60:g} minute later",
        f"at most {publishing.MOST_HOLDERS} k nodes in all",
        f"{dht.rpc_timeout_s * 1000:g} ms for the answer of an unknown endpoint",
        f"between {dht.rpc_timeout_min_s * 1000:g} ms and {dht.rpc_timeout_max_s:g} s",
    ]


def _mix_descriptor() -> list[str]:
    validity_s = descriptor.MAX_VALIDITY_S
    return [
        f"| 0 | format version | integer | {descriptor.FORMAT_VERSION};",
        f"1 to {descriptor.MAX_NETWORK_ID_CHARS} printable ASCII",
        f"| 1 to {descriptor.MAX_ONION_KEYS}, each suite once",
        f"1 to {descriptor.MAX_ONION_KEY_BYTES} bytes |",
        f"| 1 to {descriptor.MAX_ESP_SUITES}, each once, 1 to 255",
        f"| 1 to {descriptor.MAX_ENDPOINTS}, each once; 4 or 16 bytes",
        f"at most 2^{descriptor.MAX_TIME_S.bit_length() - 1}; 1 to {validity_s:,} after field 11",
        f"takes at most {descriptor.MAX_DESCRIPTOR_BYTES:,} bytes",
        f"`valid from - {descriptor.CLOCK_SKEW_S} <= now < expires`",
    ]


def _control_socket() -> list[str]:
    return [
        f"`hops`: 1 to {MAX_HOPS};",
        f"up to {MAX_HOPS} nodes, first hop first",
        f"1 to {codec.MAX_NAME_CHARACTERS} characters",
        f"list of 1 to {MAX_DESTINATIONS} destinations",
        f"started less than {LEARNING_S:g} s ago",
        f"| request line | {MAX_REQUEST_BYTES:,} bytes |",
        f"| connections | {MAX_CONNECTIONS} |",
        f"connects again for {client.BUSY_S:g} s |",
        f"| time for one request | {REQUEST_TIMEOUT_S:g} s |",
        f"left unread | {IDLE_TIMEOUT_S:g} s |",
        f"| response line (client) | {MAX_RESPONSE_BYTES >> 20} MiB |",
        f"| time for one response (client) | {RESPONSE_TIMEOUT_S:g} s |",
    ]


def _remembered_paths() -> list[str]:
    return [
        f"| `version` | integer | {path_file.FILE_VERSION};",
        f"the exit included, 1 to {MAX_HOPS} |",
        f"1 to {path_file.MAX_NAME_CHARACTERS} characters |",
        f"At most {MAX_FILE_BYTES >> 10} KiB and {MAX_STORED} entries are read",
        f"(N up to {path_file.MAX_ASIDE})",
    ]


def _topology_store() -> list[str]:
    return [
        f"# Topology store, schema {SCHEMA_VERSION}",
        f"`user_version` is {SCHEMA_VERSION}.",
        f"`application_id` is 0x{topology_store.APPLICATION_ID:X}",
        f"{MAX_HINTS:,} are kept for each network",
        f"all {DhtSettings().seeds_per_round} if there is no descriptor",
    ]


_PAGES = {
    "circuit-control": _circuit_control,
    "onion-signalling-message": _onion,
    "link-handshake": _link_handshake,
    "dht-rpc": _dht_rpc,
    "mix-descriptor": _mix_descriptor,
    "control-socket": _control_socket,
    "remembered-paths": _remembered_paths,
    "topology-store": _topology_store,
}


@pytest.mark.parametrize("page", sorted(_PAGES))
def test_a_page_states_the_values_of_the_code(page):
    text = " ".join((_ROOT / "docs" / "formats" / f"{page}.md").read_text().split())
    missing = [line for line in _PAGES[page]() if " ".join(line.split()) not in text]
    assert not missing, f"docs/formats/{page}.md does not say: {missing}"


def test_the_page_of_the_link_handshake_states_the_size_of_each_message():
    rows = (_ROOT / "docs" / "formats" / "link-handshake.md").read_text().splitlines()
    for kind in MessageType:
        begin = f"| {kind.value} | {kind.name.lower().replace('_', ' ')} |"
        (row,) = [row for row in rows if row.startswith(begin)]
        size = MESSAGE_BYTES[bytes((kind.value, VERSION))]
        end = f"| {size} and more |" if kind is MessageType.PROBE else f"| {size} |"
        assert row.endswith(end)


def test_every_page_about_a_format_is_checked():
    pages = {page.stem for page in (_ROOT / "docs" / "formats").glob("*.md")}
    assert pages == set(_PAGES)

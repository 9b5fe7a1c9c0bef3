"""The page docs/formats/link-handshake.md says what the code does."""

from __future__ import annotations

import hashlib
from pathlib import Path

from overlay.addresses import Endpoint
from overlay.identity import LocalIdentity
from overlay.link import endpoint_proof
from overlay.link.cookie import ReceiverKeys, with_macs
from overlay.link.endpoint_proof import ProofInput, ProofState
from overlay.link.events import LinkPeer
from overlay.link.exchange import Credentials, OpenedInitiation, SentInitiation
from overlay.link.handshake import Initiation, parse_message
from overlay.link.machine import TRANSITIONS
from overlay.link.states import LinkInput, LinkState

PAGE = Path(__file__).parents[3] / "docs" / "formats" / "link-handshake.md"


def transition_table(columns, inputs, transitions) -> str:
    rows = ["| input | " + " | ".join(state.name for state in columns) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    for happened in inputs:
        cells = []
        for state in columns:
            step = transitions.get((state, happened))
            action = step[0].__name__.strip("_").replace("_", " ") if step else ""
            cells.append(f"{action} → {step[1].name}" if step else "")
        rows.append(f"| {happened.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def vector() -> str:
    alice = LocalIdentity.from_private_bytes(b"\1" * 32, b"\2" * 32, b"\3" * 32)
    bob = LocalIdentity.from_private_bytes(b"\4" * 32, b"\5" * 32, b"\6" * 32)
    ours, theirs = (Credentials.of(one, "vector", (3, 4)) for one in (alice, bob))
    sent = SentInitiation.create(
        ours,
        LinkPeer(bob.overlay_address, bob.link_key, Endpoint("192.0.2.1", 4500)),
        index=0x01020304,
        inbound_spi=0x1000,
        timestamp_us=1_800_000_000_000_000,
        ephemeral=b"\7" * 32,
    )
    data = with_macs(sent.message, ReceiverKeys.of(bob.link_key, theirs.network_hash), None)
    initiation = parse_message(data)
    assert isinstance(initiation, Initiation)
    agreement, response = (
        OpenedInitiation.open(theirs, initiation)
        .verify()
        .respond(theirs, suite=3, inbound_spi=0x2000, ephemeral=b"\x08" * 32)
    )
    assert sent.complete(response).secrets.notice_in == agreement.secrets.notice_out
    keys = agreement.secrets.keys
    lines = {
        "initiation (SHA-256)": hashlib.sha256(data).digest(),
        "response (SHA-256)": hashlib.sha256(response.encode()).digest(),
        "keymat initiator to responder": keys.inbound_keymat.reveal(),
        "keymat responder to initiator": keys.outbound_keymat.reveal(),
    }
    return "\n".join(f"{name}: {value.hex()}" for name, value in lines.items())


def test_the_page_shows_the_transition_tables_of_the_code():
    page = PAGE.read_text()
    assert transition_table(LinkState, LinkInput, TRANSITIONS) in page
    assert transition_table(ProofState, ProofInput, endpoint_proof.TRANSITIONS) in page


def test_the_page_shows_a_vector_that_the_code_computes():
    assert vector() in PAGE.read_text()

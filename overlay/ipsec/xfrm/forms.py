"""Encode requests quickly by filling in prebuilt forms, because packets wait for a new circuit.

The declarative classes describe the messages, but encoding a message with them takes a hundred
microseconds. Messages of one *shape* (suite, direction, IP versions, number of templates) differ
only in a few fields. So those classes encode each shape once, and their layouts give the offsets of
the variable fields. For each message a copy is filled in. No offset is written here. The bytes
equal those of the classes (``tests/properties/test_xfrm_forms.py``).

A form contains no secret. Only its copies contain keys.

Reasons: docs/decisions/0019.
"""

from __future__ import annotations

import functools
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from overlay.addresses import Endpoint
from overlay.ipsec.interface import (
    PolicyDirection,
    Prefix,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.attributes import user_tmpl, xfrm_message
from overlay.ipsec.xfrm.entries import (
    DIRECTIONS,
    KERNEL_MAX_TEMPLATES,
    asks_for_mark,
    blocking_policy,
    kernel_reqid,
    kernel_templates,
    limit_values,
    masked,
    new_association,
    new_policy,
    policy_id,
    priority,
    sa_id,
)
from overlay.ipsec.xfrm.messages import userpolicy_id, userpolicy_info, usersa_id, usersa_info
from overlay.sensitive import SecretBytes

__all__ = ["association_body", "body_of", "policy_bodies", "sa_id_body"]

_HEADER_BYTES: Final = 16
_ATTRIBUTE_HEADER: Final = struct.Struct("=HH")
_LIMITS: Final = struct.Struct("=6Q")
_NUMBER: Final = struct.Struct("=I")
_FAMILY: Final = struct.Struct("=H")
_PREFIXES: Final = struct.Struct("=BBB")
_NETWORK_NUMBER: Final = struct.Struct(">I")
_NETWORK_PORTS: Final = struct.Struct(">HH")
_ANY_BUT_ZERO: Final = 1


def body_of(message: Any) -> bytes:  # noqa: ANN401 - pyroute2 has no types
    """Encode a message of the declarative classes, without its header."""
    message.encode()
    return bytes(message.data[_HEADER_BYTES:])


def _attributes(body: bytes, struct_bytes: int) -> dict[str, int]:
    """Return the offset of the value of each attribute."""
    names, found, at = [name for name, _ in xfrm_message.nla_map], {}, struct_bytes
    while at < len(body):
        size, kind = _ATTRIBUTE_HEADER.unpack_from(body, at)
        found[names[kind]] = at + _ATTRIBUTE_HEADER.size
        at += (size + 3) & ~3
    return found


# -- security associations -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _AssociationForm:
    """A prebuilt NEWSA; ``keys`` are the places of the key material: (offset, first byte, end)."""

    blank: bytes
    keys: tuple[tuple[int, int, int], ...]
    start: int
    ports: int
    tfc_pad: int


_SA_DESTINATION: Final = usersa_info.offset_of("id_daddr")
_SA_SPI: Final = usersa_info.offset_of("id_spi")
_SA_SOURCE: Final = usersa_info.offset_of("saddr")
_SA_LIMITS: Final = usersa_info.offset_of("lft_soft_byte_limit")
_SA_REQID: Final = usersa_info.offset_of("reqid")


def association_body(sa: SecurityAssociation, start: int = 0) -> bytes:
    """Return the body of NEWSA for one SA; it contains the keys.

    ``start`` is the sequence number before that of the first packet, if the SA is outbound.
    """
    form = _association_form(
        sa.suite,
        len(sa.destination),
        sa.replay_window,
        inbound=sa.inbound,
        esn=sa.esn,
        encapsulated=sa.encapsulation is not None,
        padded=bool(sa.tfc_pad_to),
    )
    body, address_bytes = bytearray(form.blank), len(sa.destination)
    body[_SA_DESTINATION : _SA_DESTINATION + address_bytes] = sa.destination
    body[_SA_SOURCE : _SA_SOURCE + address_bytes] = sa.source
    _NETWORK_NUMBER.pack_into(body, _SA_SPI, sa.spi)
    _NUMBER.pack_into(body, _SA_REQID, kernel_reqid(sa.reqid))
    _LIMITS.pack_into(body, _SA_LIMITS, *limit_values(sa.lifetime))
    secret = sa.keymat.reveal()
    for offset, first, end in form.keys:
        body[offset : offset + end - first] = secret[first:end]
    if not sa.inbound:
        _NUMBER.pack_into(body, form.start, start)
    if sa.encapsulation is not None:
        ends = sa.encapsulation.source.port, sa.encapsulation.destination.port
        _NETWORK_PORTS.pack_into(body, form.ports, *ends)
    if form.tfc_pad:
        _NUMBER.pack_into(body, form.tfc_pad, sa.tfc_pad_to)
    return bytes(body)


def sa_id_body(identity: SaIdentity) -> bytes:
    """Return the body of DELSA and GETSA."""
    body, address = bytearray(_sa_id_form(len(identity.destination))), identity.destination
    body[_SA_ID_DESTINATION : _SA_ID_DESTINATION + len(address)] = address
    _NETWORK_NUMBER.pack_into(body, _SA_ID_SPI, identity.spi)
    return bytes(body)


_SA_ID_DESTINATION: Final = usersa_id.offset_of("daddr")
_SA_ID_SPI: Final = usersa_id.offset_of("spi")


@functools.cache
def _sa_id_form(address_bytes: int) -> bytes:
    return body_of(sa_id(SaIdentity(Spi(0), bytes(address_bytes))))


@functools.lru_cache(maxsize=256)
def _association_form(
    suite: int,
    address_bytes: int,
    replay_window: int,
    *,
    inbound: bool,
    esn: bool,
    encapsulated: bool,
    padded: bool,
) -> _AssociationForm:
    nowhere = Endpoint("0.0.0.0", _ANY_BUT_ZERO)
    blank = body_of(
        new_association(
            SecurityAssociation(
                spi=Spi(0),
                reqid=0,
                source=bytes(address_bytes),
                destination=bytes(address_bytes),
                suite=suite,
                keymat=SecretBytes(bytes(SUITES[suite].keymat_bytes)),
                inbound=inbound,
                encapsulation=UdpEncapsulation(nowhere, nowhere) if encapsulated else None,
                esn=esn,
                replay_window=replay_window,
                tfc_pad_to=_ANY_BUT_ZERO if padded else 0,
            )
        )
    )
    values = _attributes(blank, usersa_info.struct_bytes())
    return _AssociationForm(
        blank,
        _key_places(suite, values),
        start=values["XFRMA_REPLAY_ESN_VAL"] + xfrm_message.replay_state_esn.offset_of("oseq"),
        ports=values.get("XFRMA_ENCAP", 0) + xfrm_message.encap_tmpl.offset_of("sport"),
        tfc_pad=values.get("XFRMA_TFCPAD", 0),
    )


def _key_places(suite: int, values: dict[str, int]) -> tuple[tuple[int, int, int], ...]:
    whole, cipher = SUITES[suite].keymat_bytes, SUITES[suite].key_bytes
    with_size = xfrm_message.algo_with_size.struct_bytes()
    if "XFRMA_ALG_AEAD" in values:
        return ((values["XFRMA_ALG_AEAD"] + with_size, 0, whole),)
    return (
        (values["XFRMA_ALG_CRYPT"] + xfrm_message.algo.struct_bytes(), 0, cipher),
        (values["XFRMA_ALG_AUTH_TRUNC"] + with_size, cipher, whole),
    )


# -- policies --------------------------------------------------------------------------

_POLICY_PRIORITY: Final = userpolicy_info.offset_of("priority")
_POLICY_DIRECTION: Final = userpolicy_info.offset_of("dir")
_POLICY_ID_DIRECTION: Final = userpolicy_id.offset_of("dir")
_SELECTOR_DESTINATION: Final = userpolicy_id.offset_of("sel_daddr")
_SELECTOR_SOURCE: Final = userpolicy_id.offset_of("sel_saddr")
_SELECTOR_FAMILY: Final = userpolicy_id.offset_of("sel_family")
_SELECTOR_PREFIXES: Final = userpolicy_id.offset_of("sel_prefixlen_d")
_SELECTOR_BYTES: Final = userpolicy_id.offset_of("index")
_TEMPLATE_BYTES: Final = user_tmpl.struct_bytes()
_TEMPLATE_DESTINATION: Final = user_tmpl.offset_of("daddr")
_TEMPLATE_SOURCE: Final = user_tmpl.offset_of("saddr")
_TEMPLATE_FAMILY: Final = user_tmpl.offset_of("family")
_TEMPLATE_REQID: Final = user_tmpl.offset_of("reqid")


def policy_bodies(
    policy: SecurityPolicy, *, blocks: bool = False, mark: int | None = None
) -> tuple[bytes, bytes]:
    """Return the bodies of NEWPOLICY and DELPOLICY for one policy.

    Args:
        policy: what is to be installed.
        blocks: drop what matches; there are no templates then.
        mark: what packets of programs bear, see ``entries.asks_for_mark``.
    """
    blank, templates_at = _policy_form(0 if blocks else len(policy.templates), blocks=blocks)
    selector, direction = _selector(policy.selector), DIRECTIONS[policy.direction]
    body, identity = bytearray(blank), bytearray(_policy_id_form())
    body[:_SELECTOR_BYTES] = identity[:_SELECTOR_BYTES] = selector
    body[_POLICY_DIRECTION] = identity[_POLICY_ID_DIRECTION] = direction
    _NUMBER.pack_into(body, _POLICY_PRIORITY, priority(policy.selector))
    if not blocks:
        for number, template in enumerate(kernel_templates(policy)):
            _fill_template(body, templates_at + number * _TEMPLATE_BYTES, template)
    marked = _mark_form(mark) if mark is not None and not blocks and asks_for_mark(policy) else b""
    return bytes(body) + marked, bytes(identity) + marked


def _selector(selector: Selector) -> bytearray:
    """Return the selector struct, with which both bodies begin."""
    source, destination = masked(selector.source), masked(selector.destination)
    filled, size = bytearray(_policy_id_form()[:_SELECTOR_BYTES]), len(destination.network)
    filled[_SELECTOR_DESTINATION : _SELECTOR_DESTINATION + size] = destination.network
    filled[_SELECTOR_SOURCE : _SELECTOR_SOURCE + size] = source.network
    _FAMILY.pack_into(filled, _SELECTOR_FAMILY, _family(size))
    # prefixlen_d, prefixlen_s and proto are adjacent, which the property test checks.
    lengths = destination.length, source.length, selector.protocol or 0
    _PREFIXES.pack_into(filled, _SELECTOR_PREFIXES, *lengths)
    return filled


def _fill_template(body: bytearray, at: int, template: Template) -> None:
    size = len(template.destination)
    begin = at + _TEMPLATE_DESTINATION
    body[begin : begin + size] = template.destination
    begin = at + _TEMPLATE_SOURCE
    body[begin : begin + size] = template.source
    _FAMILY.pack_into(body, at + _TEMPLATE_FAMILY, _family(size))
    _NUMBER.pack_into(body, at + _TEMPLATE_REQID, kernel_reqid(template.reqid))


_NOTHING: Final = Prefix(bytes(16), 128)
_BLANK_SELECTOR: Final = Selector(_NOTHING, _NOTHING)


@functools.lru_cache(maxsize=2 * KERNEL_MAX_TEMPLATES)
def _policy_form(templates: int, *, blocks: bool) -> tuple[bytes, int]:
    """Return the form, and the offset of its templates (0 if there are none)."""
    blank_template = Template(bytes(16), bytes(16), 0)
    policy = SecurityPolicy(PolicyDirection.IN, _BLANK_SELECTOR, (blank_template,) * templates)
    blank = body_of(blocking_policy(policy) if blocks else new_policy(policy))
    values = _attributes(blank, userpolicy_info.struct_bytes())
    return blank, values.get("XFRMA_TMPL", 0)


@functools.cache
def _mark_form(mark: int) -> bytes:
    """Return the attribute for the mark, which comes last in both bodies."""
    anywhere = SecurityPolicy(PolicyDirection.OUT, _BLANK_SELECTOR, ())
    return body_of(policy_id(anywhere, mark))[len(_policy_id_form()) :]


@functools.cache
def _policy_id_form() -> bytes:
    return body_of(policy_id(SecurityPolicy(PolicyDirection.IN, _BLANK_SELECTOR, ())))


def _family(address_bytes: int) -> int:
    return socket.AF_INET if address_bytes == 4 else socket.AF_INET6

"""Refuse configurations that the kernel would refuse or interpret in another way."""

from __future__ import annotations

from overlay.ipsec.interface import IpsecConfiguration, SecurityAssociation, SecurityPolicy
from overlay.ipsec.userspace.sad import check_association
from overlay.ipsec.userspace.spd import check_policy
from overlay.ipsec.xfrm.entries import KERNEL_MAX_TEMPLATES, MAX_REQID, MAX_WINDOW

__all__ = ["check_configuration"]


def check_configuration(configuration: IpsecConfiguration, suites: frozenset[int]) -> None:
    """Refuse a configuration that cannot work in the kernel.

    Raises:
        ValueError: the message names the field, but never its value.
    """
    for sa in configuration.associations:
        check_association(sa, suites)
        _check_kernel_association(sa)
    for policy in configuration.policies:
        _check_kernel_policy(policy)
        check_policy(policy)
    for address in configuration.local_addresses:
        if len(address) not in (4, 16):
            raise ValueError("A local address must be packed, with 4 or 16 bytes.")


def _check_kernel_association(sa: SecurityAssociation) -> None:
    if not 0 < sa.reqid <= MAX_REQID:
        raise ValueError(f"A reqid must be between 1 and {MAX_REQID}.")
    if sa.replay_window > MAX_WINDOW:
        raise ValueError(f"The kernel's replay window has at most {MAX_WINDOW} packets.")


def _check_kernel_policy(policy: SecurityPolicy) -> None:
    count = len(policy.templates)
    if count > KERNEL_MAX_TEMPLATES:
        raise ValueError(
            f"The Linux kernel supports at most {KERNEL_MAX_TEMPLATES} templates in a policy (four"
            f" hops and the link), not {count}; choose a shorter path, or the userspace backend."
        )
    if policy.selector.protocol == 0:
        raise ValueError("A selector's protocol must not be 0, because 0 means any to the kernel.")
    if not all(0 < template.reqid <= MAX_REQID for template in policy.templates):
        raise ValueError(f"A reqid must be between 1 and {MAX_REQID}.")

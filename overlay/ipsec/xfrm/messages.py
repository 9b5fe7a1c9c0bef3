"""Declare the messages of netlink's XFRM family (``NETLINK_XFRM``) in pyroute2's style.

==============================  ============================  =========================
request or notification         class                         answer
==============================  ============================  =========================
NEWSA, UPDSA                    :class:`usersa_info`          acknowledgement
DELSA, GETSA                    :class:`usersa_id`            -, ``usersa_info``
GETSA as dump                   :class:`usersa_dump`          ``usersa_info`` each
NEWPOLICY, UPDPOLICY            :class:`userpolicy_info`      acknowledgement
DELPOLICY, GETPOLICY            :class:`userpolicy_id`        -, ``userpolicy_info``
GETPOLICY as dump               :class:`userpolicy_dump`      ``userpolicy_info`` each
FLUSHSA, FLUSHPOLICY            ``usersa_flush``,             acknowledgement
                                ``userpolicy_flush``
ALLOCSPI                        :class:`userspi_info`         ``usersa_info``
GETSPDINFO                      :class:`spdinfo`              ``spdinfo``
GETSADINFO                      :class:`sadinfo`              ``sadinfo``
GETAE, NEWAE                    :class:`aevent_id`            ``aevent_id``, -
EXPIRE, POLEXPIRE, ACQUIRE      ``user_expire``,              (events)
                                ``user_polexpire``,
                                ``user_acquire``
NEWAE, MAPPING                  ``aevent_id``,                (events)
                                ``user_mapping``
==============================  ============================  =========================

Layouts: Linux uapi ``linux/xfrm.h``. :mod:`overlay.ipsec.xfrm.attributes` has the conventions. A
struct within a struct is flattened, and its fields have a prefix (``sel_family``).
"""
# mypy: allow-subclassing-any
# ruff: noqa: N801 - pyroute2 names its classes after the kernel's structs

from __future__ import annotations

from pyroute2.netlink import nla, nlmsg
from pyroute2.netlink.marshal import Marshal

from overlay.ipsec.xfrm.attributes import xfrm_message
from overlay.ipsec.xfrm.packing import PackedStruct

XFRM_MSG_NEWSA = 0x10
XFRM_MSG_DELSA = 0x11
XFRM_MSG_GETSA = 0x12
XFRM_MSG_NEWPOLICY = 0x13
XFRM_MSG_DELPOLICY = 0x14
XFRM_MSG_GETPOLICY = 0x15
XFRM_MSG_ALLOCSPI = 0x16
XFRM_MSG_ACQUIRE = 0x17
XFRM_MSG_EXPIRE = 0x18
XFRM_MSG_UPDPOLICY = 0x19
XFRM_MSG_UPDSA = 0x1A
XFRM_MSG_POLEXPIRE = 0x1B
XFRM_MSG_FLUSHSA = 0x1C
XFRM_MSG_FLUSHPOLICY = 0x1D
XFRM_MSG_NEWAE = 0x1E
XFRM_MSG_GETAE = 0x1F
XFRM_MSG_NEWSADINFO = 0x22
XFRM_MSG_GETSADINFO = 0x23
XFRM_MSG_NEWSPDINFO = 0x24
XFRM_MSG_GETSPDINFO = 0x25
XFRM_MSG_MAPPING = 0x26

XFRMNLGRP_ACQUIRE = 1
XFRMNLGRP_EXPIRE = 2
XFRMNLGRP_SA = 3
XFRMNLGRP_POLICY = 4
XFRMNLGRP_AEVENTS = 5
XFRMNLGRP_MAPPING = 8

XFRM_MODE_TUNNEL = 1
XFRM_POLICY_IN = 0
XFRM_POLICY_OUT = 1
XFRM_POLICY_FWD = 2
XFRM_POLICY_ALLOW = 0
XFRM_POLICY_BLOCK = 1
XFRM_STATE_NOECN = 1
XFRM_STATE_NOPMTUDISC = 4
XFRM_STATE_AF_UNSPEC = 32
XFRM_STATE_ESN = 128
XFRM_SA_XFLAG_DONT_ENCAP_DSCP = 1
XFRM_INF = 2**64 - 1
UDP_ENCAP_ESPINUDP = 2

# struct xfrm_selector {
#     xfrm_address_t    daddr;
#     xfrm_address_t    saddr;
#     __be16            dport;
#     __be16            dport_mask;
#     __be16            sport;
#     __be16            sport_mask;
#     __u16             family;
#     __u8              prefixlen_d;
#     __u8              prefixlen_s;
#     __u8              proto;
#     int               ifindex;
#     __kernel_uid32_t  user;
# };
_SELECTOR = (
    ("sel_daddr", "16s"),
    ("sel_saddr", "16s"),
    ("sel_dport", ">H"),
    ("sel_dport_mask", ">H"),
    ("sel_sport", ">H"),
    ("sel_sport_mask", ">H"),
    ("sel_family", "H"),
    ("sel_prefixlen_d", "B"),
    ("sel_prefixlen_s", "B"),
    ("sel_proto", "B"),
    ("__sel_pad", "3x"),
    ("sel_ifindex", "i"),
    ("sel_user", "I"),
)

# struct xfrm_id { xfrm_address_t daddr; __be32 spi; __u8 proto; };
_ID = (
    ("id_daddr", "16s"),
    ("id_spi", ">I"),
    ("id_proto", "B"),
    ("__id_pad", "3x"),
)

# struct xfrm_lifetime_cfg { __u64 soft_byte_limit, ... hard_use_expires_seconds; };
_LIFETIME_CFG = (
    ("lft_soft_byte_limit", "Q"),
    ("lft_hard_byte_limit", "Q"),
    ("lft_soft_packet_limit", "Q"),
    ("lft_hard_packet_limit", "Q"),
    ("lft_soft_add_expires_seconds", "Q"),
    ("lft_hard_add_expires_seconds", "Q"),
    ("lft_soft_use_expires_seconds", "Q"),
    ("lft_hard_use_expires_seconds", "Q"),
)

# struct xfrm_lifetime_cur { __u64 bytes, packets, add_time, use_time; };
_LIFETIME_CUR = (
    ("curlft_bytes", "Q"),
    ("curlft_packets", "Q"),
    ("curlft_add_time", "Q"),
    ("curlft_use_time", "Q"),
)

# struct xfrm_stats { __u32 replay_window, replay, integrity_failed; };
_STATS = (
    ("stats_replay_window", "I"),
    ("stats_replay", "I"),
    ("stats_integrity_failed", "I"),
)


class usersa_info(xfrm_message):
    """One security association.

    .. code-block:: c

        struct xfrm_usersa_info {
            struct xfrm_selector      sel;
            struct xfrm_id            id;
            xfrm_address_t            saddr;
            struct xfrm_lifetime_cfg  lft;
            struct xfrm_lifetime_cur  curlft;
            struct xfrm_stats         stats;
            __u32                     seq;
            __u32                     reqid;
            __u16                     family;
            __u8                      mode;
            __u8                      replay_window;
            __u8                      flags;
        };
    """

    fields = (
        *_SELECTOR,
        *_ID,
        ("saddr", "16s"),
        *_LIFETIME_CFG,
        *_LIFETIME_CUR,
        *_STATS,
        ("seq", "I"),
        ("reqid", "I"),
        ("family", "H"),
        ("mode", "B"),
        ("replay_window", "B"),
        ("flags", "B"),
        ("__pad", "7x"),
    )


class usersa_id(xfrm_message):
    """The identity of a security association.

    .. code-block:: c

        struct xfrm_usersa_id {
            xfrm_address_t  daddr;
            __be32          spi;
            __u16           family;
            __u8            proto;
        };
    """

    fields = (
        ("daddr", "16s"),
        ("spi", ">I"),
        ("family", "H"),
        ("proto", "B"),
        ("__pad", "x"),
    )


class usersa_dump(xfrm_message):
    """Request all SAs; XFRMA_PROTO and XFRMA_ADDRESS_FILTER may restrict them."""


class usersa_flush(xfrm_message):
    """Remove all SAs of a protocol (255 for all).

    .. code-block:: c

        struct xfrm_usersa_flush { __u8 proto; };
    """

    fields = (("proto", "B"),)


class userpolicy_info(xfrm_message):
    """One policy; its templates are in XFRMA_TMPL.

    .. code-block:: c

        struct xfrm_userpolicy_info {
            struct xfrm_selector      sel;
            struct xfrm_lifetime_cfg  lft;
            struct xfrm_lifetime_cur  curlft;
            __u32                     priority;
            __u32                     index;
            __u8                      dir;
            __u8                      action;
            __u8                      flags;
            __u8                      share;
        };
    """

    fields = (
        *_SELECTOR,
        *_LIFETIME_CFG,
        *_LIFETIME_CUR,
        ("priority", "I"),
        ("index", "I"),
        ("dir", "B"),
        ("action", "B"),
        ("flags", "B"),
        ("share", "B"),
        ("__pad", "4x"),
    )


class userpolicy_id(xfrm_message):
    """The identity of a policy: direction and selector, or direction and index.

    .. code-block:: c

        struct xfrm_userpolicy_id {
            struct xfrm_selector  sel;
            __u32                 index;
            __u8                  dir;
        };
    """

    fields = (*_SELECTOR, ("index", "I"), ("dir", "B"), ("__pad", "3x"))


class userpolicy_dump(xfrm_message):
    """Request all policies."""


class userpolicy_flush(xfrm_message):
    """Remove all policies; XFRMA_POLICY_TYPE names their type."""


class user_expire(xfrm_message):
    """An SA reached its soft limit (``hard`` 0) or its hard limit (1).

    .. code-block:: c

        struct xfrm_user_expire { struct xfrm_usersa_info state; __u8 hard; };
    """

    fields = (*usersa_info.fields, ("hard", "B"), ("__hard_pad", "7x"))


class user_polexpire(xfrm_message):
    """A policy reached its soft limit (``hard`` 0) or its hard limit (1).

    .. code-block:: c

        struct xfrm_user_polexpire { struct xfrm_userpolicy_info pol; __u8 hard; };
    """

    fields = (*userpolicy_info.fields, ("hard", "B"), ("__hard_pad", "7x"))


class user_acquire(xfrm_message):
    """A packet matched a policy, but one of its templates has no SA.

    .. code-block:: c

        struct xfrm_user_acquire {
            struct xfrm_id               id;
            xfrm_address_t               saddr;
            struct xfrm_selector         sel;
            struct xfrm_userpolicy_info  policy;
            __u32                        aalgos;
            __u32                        ealgos;
            __u32                        calgos;
            __u32                        seq;
        };
    """

    fields = (
        *_ID,
        ("saddr", "16s"),
        *_SELECTOR,
        *((f"policy_{name}", fmt) for name, fmt in userpolicy_info.fields),
        ("aalgos", "I"),
        ("ealgos", "I"),
        ("calgos", "I"),
        ("seq", "I"),
    )


class userspi_info(xfrm_message):
    """Request an SPI between ``min`` and ``max``; the kernel answers with a larval SA.

    .. code-block:: c

        struct xfrm_userspi_info { struct xfrm_usersa_info info; __u32 min, max; };
    """

    fields = (*usersa_info.fields, ("min", "I"), ("max", "I"))


class aevent_id(xfrm_message):
    """The state of an SA: XFRMA_REPLAY_VAL or XFRMA_REPLAY_ESN_VAL, and XFRMA_LTIME_VAL.

    .. code-block:: c

        struct xfrm_aevent_id {
            struct xfrm_usersa_id  sa_id;
            xfrm_address_t         saddr;
            __u32                  flags;
            __u32                  reqid;
        };
    """

    fields = (*usersa_id.fields, ("saddr", "16s"), ("flags", "I"), ("reqid", "I"))


class user_mapping(xfrm_message):
    """The peer of an encapsulated SA now sends from another address or port.

    .. code-block:: c

        struct xfrm_user_mapping {
            struct xfrm_usersa_id  id;
            __u32                  reqid;
            xfrm_address_t         old_saddr;
            xfrm_address_t         new_saddr;
            __be16                 old_sport;
            __be16                 new_sport;
        };
    """

    fields = (
        *usersa_id.fields,
        ("reqid", "I"),
        ("old_saddr", "16s"),
        ("new_saddr", "16s"),
        ("old_sport", ">H"),
        ("new_sport", ">H"),
    )


class sadinfo(PackedStruct, nlmsg):
    """The number of SAs; in a request, ``flags`` is ignored."""

    prefix = "XFRMA_"
    fields = (("flags", "I"),)
    nla_map = (
        ("XFRMA_SAD_UNSPEC", "none"),
        ("XFRMA_SAD_CNT", "uint32"),
        ("XFRMA_SAD_HINFO", "hinfo"),
    )

    class hinfo(PackedStruct, nla):
        """The present and the maximum size of the hash table.

        .. code-block:: c

            struct xfrmu_sadhinfo { __u32 sadhcnt, sadhmcnt; };
        """

        fields = (("sadhcnt", "I"), ("sadhmcnt", "I"))


class spdinfo(PackedStruct, nlmsg):
    """The number of policies; in a request, ``flags`` is ignored."""

    prefix = "XFRMA_"
    fields = (("flags", "I"),)
    nla_map = (
        ("XFRMA_SPD_UNSPEC", "none"),
        ("XFRMA_SPD_INFO", "info"),
        ("XFRMA_SPD_HINFO", "hinfo"),
        ("XFRMA_SPD_IPV4_HTHRESH", "hthresh"),
        ("XFRMA_SPD_IPV6_HTHRESH", "hthresh"),
    )

    class info(PackedStruct, nla):
        """Numbers of policies by direction; those of sockets are counted separately.

        .. code-block:: c

            struct xfrmu_spdinfo { __u32 incnt, outcnt, fwdcnt, inscnt, outscnt, fwdscnt; };
        """

        fields = (
            ("incnt", "I"),
            ("outcnt", "I"),
            ("fwdcnt", "I"),
            ("inscnt", "I"),
            ("outscnt", "I"),
            ("fwdscnt", "I"),
        )

    class hinfo(PackedStruct, nla):
        """The present and the maximum size of the hash table.

        .. code-block:: c

            struct xfrmu_spdhinfo { __u32 spdhcnt, spdhmcnt; };
        """

        fields = (("spdhcnt", "I"), ("spdhmcnt", "I"))

    class hthresh(PackedStruct, nla):
        """The least prefix lengths for which a policy is hashed.

        .. code-block:: c

            struct xfrmu_spdhthresh { __u8 lbits, rbits; };
        """

        fields = (("lbits", "B"), ("rbits", "B"))


class MarshalXfrm(Marshal):
    """Decode the kernel's messages of this family by their type."""

    msg_map = {  # noqa: RUF012 - pyroute2's own form
        XFRM_MSG_NEWSA: usersa_info,
        XFRM_MSG_UPDSA: usersa_info,
        XFRM_MSG_NEWPOLICY: userpolicy_info,
        XFRM_MSG_UPDPOLICY: userpolicy_info,
        XFRM_MSG_ACQUIRE: user_acquire,
        XFRM_MSG_EXPIRE: user_expire,
        XFRM_MSG_POLEXPIRE: user_polexpire,
        XFRM_MSG_NEWAE: aevent_id,
        XFRM_MSG_NEWSADINFO: sadinfo,
        XFRM_MSG_NEWSPDINFO: spdinfo,
        XFRM_MSG_MAPPING: user_mapping,
    }

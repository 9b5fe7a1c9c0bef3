"""Declare the attributes of netlink's XFRM family in pyroute2's style.

Layouts: Linux uapi ``linux/xfrm.h``. The padding of the C structs is written explicitly. Values are
in host byte order, except SPIs and ports. An ``xfrm_address_t`` is a union of an IPv4 and an IPv6
address: 16 packed bytes, of which IPv4 uses the first four.
"""
# mypy: allow-subclassing-any
# ruff: noqa: N801 - pyroute2 names its classes after the kernel's structs

from __future__ import annotations

from pyroute2.netlink import nla, nla_string, nlmsg, nlmsg_base

from overlay.ipsec.xfrm.packing import PackedStruct

__all__ = ["user_tmpl", "xfrm_message"]


class user_tmpl(PackedStruct, nlmsg_base):
    """One tunnel that a policy requires; XFRMA_TMPL contains a plain array of them.

    .. code-block:: c

        struct xfrm_user_tmpl {
            struct xfrm_id  id;        /* daddr, spi, proto */
            __u16           family;
            xfrm_address_t  saddr;
            __u32           reqid;
            __u8            mode;
            __u8            share;
            __u8            optional;
            __u32           aalgos;
            __u32           ealgos;
            __u32           calgos;
        };
    """

    header = None

    fields = (
        ("daddr", "16s"),
        ("spi", ">I"),
        ("proto", "B"),
        ("__pad0", "3x"),
        ("family", "H"),
        ("__pad1", "2x"),
        ("saddr", "16s"),
        ("reqid", "I"),
        ("mode", "B"),
        ("share", "B"),
        ("optional", "B"),
        ("__pad2", "x"),
        ("aalgos", "I"),
        ("ealgos", "I"),
        ("calgos", "I"),
    )


class xfrm_message(PackedStruct, nlmsg):
    """Base of all messages of the family, which use the same attributes."""

    prefix = "XFRMA_"

    nla_map = (
        ("XFRMA_UNSPEC", "none"),
        ("XFRMA_ALG_AUTH", "algo"),
        ("XFRMA_ALG_CRYPT", "algo"),
        ("XFRMA_ALG_COMP", "algo"),
        ("XFRMA_ENCAP", "encap_tmpl"),
        ("XFRMA_TMPL", "tmpls"),
        ("XFRMA_SA", "hex"),
        ("XFRMA_POLICY", "hex"),
        ("XFRMA_SEC_CTX", "hex"),
        ("XFRMA_LTIME_VAL", "lifetime_cur"),
        ("XFRMA_REPLAY_VAL", "replay_state"),
        ("XFRMA_REPLAY_THRESH", "uint32"),
        ("XFRMA_ETIMER_THRESH", "uint32"),
        ("XFRMA_SRCADDR", "cdata"),
        ("XFRMA_COADDR", "cdata"),
        ("XFRMA_LASTUSED", "uint64"),
        ("XFRMA_POLICY_TYPE", "userpolicy_type"),
        ("XFRMA_MIGRATE", "hex"),
        ("XFRMA_ALG_AEAD", "algo_with_size"),
        ("XFRMA_KMADDRESS", "hex"),
        ("XFRMA_ALG_AUTH_TRUNC", "algo_with_size"),
        ("XFRMA_MARK", "mark"),
        ("XFRMA_TFCPAD", "uint32"),
        ("XFRMA_REPLAY_ESN_VAL", "replay_state_esn"),
        ("XFRMA_SA_EXTRA_FLAGS", "uint32"),
        ("XFRMA_PROTO", "uint8"),
        ("XFRMA_ADDRESS_FILTER", "address_filter"),
        ("XFRMA_PAD", "hex"),
        ("XFRMA_OFFLOAD_DEV", "user_offload"),
        ("XFRMA_SET_MARK", "uint32"),
        ("XFRMA_SET_MARK_MASK", "uint32"),
        ("XFRMA_IF_ID", "uint32"),
        ("XFRMA_MTIMER_THRESH", "uint32"),
        ("XFRMA_SA_DIR", "uint8"),
        ("XFRMA_NAT_KEEPALIVE_INTERVAL", "uint32"),
        ("XFRMA_SA_PCPU", "uint32"),
    )

    class algo(PackedStruct, nla):
        """An algorithm and its key; ``key_len`` is in bits.

        .. code-block:: c

            struct xfrm_algo {
                char          alg_name[64];
                unsigned int  alg_key_len;    /* in bits */
                char          alg_key[];
            };
        """

        fields = (("name", "64s"), ("key_len", "I"), ("key", "s"))

    class algo_with_size(PackedStruct, nla):
        """An algorithm whose ICV has ``icv_len`` bits (AEAD, or a truncated HMAC).

        .. code-block:: c

            struct xfrm_algo_aead {                struct xfrm_algo_auth {
                char          alg_name[64];            char          alg_name[64];
                unsigned int  alg_key_len;             unsigned int  alg_key_len;
                unsigned int  alg_icv_len;             unsigned int  alg_trunc_len;
                char          alg_key[];               char          alg_key[];
            };                                     };
        """

        fields = (("name", "64s"), ("key_len", "I"), ("icv_len", "I"), ("key", "s"))

    class encap_tmpl(PackedStruct, nla):
        """Encapsulation of ESP in UDP (RFC 3948).

        .. code-block:: c

            struct xfrm_encap_tmpl {
                __u16           encap_type;
                __be16          encap_sport;
                __be16          encap_dport;
                xfrm_address_t  encap_oa;
            };
        """

        fields = (
            ("type", "H"),
            ("sport", ">H"),
            ("dport", ">H"),
            ("__pad", "2x"),
            ("oa", "16s"),
        )

    class tmpls(nla_string):
        """The templates of a policy as a plain array of structs, innermost first."""

        def encode(self) -> None:
            """Concatenate the templates."""
            data = bytearray()
            for each in self.value:
                template = user_tmpl()
                template.setvalue(each)
                template.encode()
                data += template.data
            self["value"] = bytes(data)
            nla_string.encode(self)

        def decode(self) -> None:
            """Split the array."""
            nla_string.decode(self)
            raw = self["value"]
            self.value, size = [], user_tmpl.struct_bytes()
            for offset in range(0, len(raw) - size + 1, size):
                template = user_tmpl(data=raw, offset=offset)
                template.decode()
                self.value.append(dict(template))

    class lifetime_cur(PackedStruct, nla):
        """The traffic of an SA so far; times are Unix seconds.

        .. code-block:: c

            struct xfrm_lifetime_cur { __u64 bytes, packets, add_time, use_time; };
        """

        fields = (("bytes", "Q"), ("packets", "Q"), ("add_time", "Q"), ("use_time", "Q"))

    class replay_state(PackedStruct, nla):
        """Sequence numbers and the window of up to 32 packets.

        .. code-block:: c

            struct xfrm_replay_state { __u32 oseq, seq, bitmap; };
        """

        fields = (("oseq", "I"), ("seq", "I"), ("bitmap", "I"))

    class replay_state_esn(PackedStruct, nla):
        """Sequence numbers of 64 bits, and a window of up to 4096 packets.

        .. code-block:: c

            struct xfrm_replay_state_esn {
                unsigned int  bmp_len;        /* in words of 32 bits */
                __u32         oseq;
                __u32         seq;
                __u32         oseq_hi;
                __u32         seq_hi;
                __u32         replay_window;  /* in packets */
                __u32         bmp[];
            };
        """

        fields = (
            ("bmp_len", "I"),
            ("oseq", "I"),
            ("seq", "I"),
            ("oseq_hi", "I"),
            ("seq_hi", "I"),
            ("replay_window", "I"),
            ("bmp", "s"),
        )

    class mark(PackedStruct, nla):
        """The mark of an entry, which matches packets whose mark under the mask is the value.

        .. code-block:: c

            struct xfrm_mark { __u32 v; __u32 m; };
        """

        fields = (("v", "I"), ("m", "I"))

    class userpolicy_type(PackedStruct, nla):
        """Main (0) or sub (1) policy.

        .. code-block:: c

            struct xfrm_userpolicy_type { __u8 type; __u16 reserved1; __u8 reserved2; };
        """

        fields = (("type", "B"), ("__pad0", "x"), ("reserved1", "H"), ("reserved2", "B"))

    class address_filter(PackedStruct, nla):
        """A filter for the SAs of a dump.

        .. code-block:: c

            struct xfrm_address_filter {
                xfrm_address_t  saddr;
                xfrm_address_t  daddr;
                __u16           family;
                __u8            splen;
                __u8            dplen;
            };
        """

        fields = (
            ("saddr", "16s"),
            ("daddr", "16s"),
            ("family", "H"),
            ("splen", "B"),
            ("dplen", "B"),
        )

    class user_offload(PackedStruct, nla):
        """The device to which an SA is offloaded.

        .. code-block:: c

            struct xfrm_user_offload { int ifindex; __u8 flags; };
        """

        fields = (("ifindex", "i"), ("flags", "B"))

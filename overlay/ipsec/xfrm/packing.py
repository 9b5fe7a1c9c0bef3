"""Pack the ``fields`` of pyroute2's classes in one step instead of one by one.

pyroute2 packs field by field, which takes half a millisecond for one SA. A circuit needs twenty
messages, and its packets wait meanwhile. So the formats of a class are compiled once, when it is
first used. The declarative style stays the same. Padding (``("__pad", "3x")``) is no value. A last
field of format ``s`` is a flexible array: it contains all remaining bytes.
"""

from __future__ import annotations

import struct
import sys
from typing import Any, Final, NamedTuple

__all__ = ["PackedStruct"]

_ALIGN: Final = 4


class _StructLayout(NamedTuple):
    """``swapped`` are the (index, size) of integers in network byte order."""

    names: tuple[str, ...]
    defaults: tuple[object, ...]
    packer: struct.Struct
    offsets: dict[str, int]
    swapped: tuple[tuple[int, int], ...]
    tail: str | None


def _layout(fields: tuple[tuple[str, str], ...]) -> _StructLayout:
    tail = fields[-1][0] if fields and fields[-1][1] == "s" else None
    fixed = fields[:-1] if tail else fields
    values = [(name, fmt) for name, fmt in fixed if not fmt.endswith("x")]
    return _StructLayout(
        names=tuple(name for name, _ in values),
        defaults=tuple(b"" if fmt.endswith("s") else 0 for _, fmt in values),
        packer=struct.Struct("=" + "".join(fmt.lstrip(">") for _, fmt in fixed)),
        offsets={
            name: struct.calcsize("=" + "".join(each.lstrip(">") for _, each in fixed[:index]))
            for index, (name, _) in enumerate(fixed)
        },
        swapped=tuple(
            (index, struct.calcsize(fmt))
            for index, (_, fmt) in enumerate(values)
            if fmt.startswith(">") and sys.byteorder == "little"
        ),
        tail=tail,
    )


class PackedStruct:
    """Encode and decode ``fields``; a mixin for pyroute2's ``nla``, ``nlmsg`` and ``nlmsg_base``.

    It must be the first base class.
    """

    __slots__ = ()

    fields: tuple[tuple[str, str], ...] = ()
    _compiled: _StructLayout | None = None

    @classmethod
    def layout(cls) -> _StructLayout:
        """Return the compiled fields of this class."""
        if "_compiled" not in cls.__dict__ or cls._compiled is None:
            cls._compiled = _layout(cls.fields)
        return cls._compiled

    @classmethod
    def struct_bytes(cls) -> int:
        """Return the size of the fixed part."""
        return cls.layout().packer.size

    @classmethod
    def offset_of(cls, field: str) -> int:
        """Return the offset of a field of the fixed part."""
        return cls.layout().offsets[field]

    def ft_encode(self: Any, offset: int) -> tuple[int, int]:
        """Append the struct to ``data``; return the offset after it and the size of the padding."""
        layout = self.layout()
        given = dict.get
        values = [
            given(self, name, default)
            for name, default in zip(layout.names, layout.defaults, strict=True)
        ]
        for index, size in layout.swapped:
            values[index] = _swapped(values[index], size)
        packed = layout.packer.pack(*values)
        if layout.tail:
            packed += given(self, layout.tail, b"")
        padding = -len(packed) % _ALIGN
        self.data.extend(packed + bytes(padding))
        return offset + len(packed) + padding, padding

    def ft_decode(self: Any, offset: int) -> None:
        """Set the fields from ``data``, then the attributes if there are any."""
        layout = self.layout()
        values = list(layout.packer.unpack_from(self.data, offset))
        for index, size in layout.swapped:
            values[index] = _swapped(values[index], size)
        self.update(zip(layout.names, values, strict=True))
        offset += layout.packer.size
        if layout.tail:
            self[layout.tail] = bytes(self.data[offset : self.offset + self.length])
        if self.nla_map:
            self.decode_nlas((offset + _ALIGN - 1) & -_ALIGN)
        else:
            del self["attrs"]


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "big"), "little")

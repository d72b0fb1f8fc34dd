"""ELF shared objects for x86-64: which symbols one lacks, and a tiny one that supplies them.

No compiler is needed: a stub is one page of headers, names and the same three bytes of code behind every name.
"""

import ctypes
import struct
from pathlib import Path
from typing import Final

HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT: Final = struct.Struct(
    "<IIQQQQQQ"
)  # type, flags, offset, address, address, bytes in file and memory, align
SECTION: Final = struct.Struct("<IIQQQQIIQQ")
SYMBOL: Final = struct.Struct("<IBBHQQ")  # name, binding and type, visibility, section, address, bytes
DYNAMIC: Final = struct.Struct("<Qq")

MAGIC: Final = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
X86_64: Final = 62
SHARED_OBJECT: Final = 3
SYMBOLS_OF_LOADER: Final = 11  # the section type of .dynsym
DYNAMIC_SECTION: Final = 6
SYMBOL_VERSIONS: Final = 0x6FFFFFFF
UNVERSIONED: Final = 1
GLOBAL_FUNCTION: Final = 0x12
GLOBAL: Final = 1
LOAD, DYNAMIC_SEGMENT, STACK = 1, 2, 0x6474E551
READ, READ_WRITE, READ_EXECUTE = 4, 6, 5
NEEDED, HASH, STRINGS, SYMBOLS, STRINGS_BYTES, SYMBOL_BYTES, SONAME = 1, 4, 5, 6, 10, 11, 14
PAGE: Final = 4096
RETURN_ZERO: Final = b"\x31\xc0\xc3"  # xor eax, eax; ret


class _Object:
    """The parts of a shared object that the loader reads."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        fields = HEADER.unpack_from(self.data)
        if fields[0][:7] != MAGIC or fields[2] != X86_64:
            raise ValueError(f"{path}: not an x86-64 ELF file; take the manylinux x86_64 wheel")
        start, size, count = fields[6], fields[11], fields[12]
        self.sections = [SECTION.unpack_from(self.data, start + size * i) for i in range(count)]

    def records(self, kind: int, record: struct.Struct) -> list[tuple[tuple[int, ...], int]]:
        """Every record of the sections of this kind, with the place of the names it points into."""
        return [
            (fields, self.sections[section[6]][4])
            for section in self.sections
            if section[1] == kind
            for fields in record.iter_unpack(self.data[section[4] : section[4] + section[5]])
        ]

    def name(self, place: int) -> str:
        return self.data[place : self.data.index(b"\0", place)].decode()


def needed(path: Path) -> list[str]:
    """The sonames that this object asks the loader for."""
    one = _Object(path)
    return [
        one.name(names + value)
        for (tag, value), names in one.records(DYNAMIC_SECTION, DYNAMIC)
        if tag == NEEDED
    ]


def lacking(path: Path) -> list[str]:
    """The symbols that this object cannot do without and that neither this process nor a system library has.

    A name with a version belongs to a system library (glibc, libstdc++), which versions all that it has; NVIDIA's
    libraries version nothing, and Python's names are in this process.
    """
    one = _Object(path)
    here = ctypes.CDLL(None)
    symbols = one.records(SYMBOLS_OF_LOADER, SYMBOL)
    versions = one.records(SYMBOL_VERSIONS, struct.Struct("<H"))
    undefined = {
        one.name(names + fields[0])
        for (fields, names), ((version,), _) in zip(symbols, versions, strict=True)
        if fields[0] and fields[3] == 0 and fields[1] >> 4 == GLOBAL and version <= UNVERSIONED
    }
    return sorted(name for name in undefined if not hasattr(here, name))


def stub(soname: str, symbols: list[str]) -> bytes:
    """A shared object of this name; each symbol is a function that returns 0."""
    names, places = b"\0", []
    for name in (*symbols, soname):
        places.append(len(names))
        names += name.encode() + b"\0"
    count = len(symbols) + 1  # the first symbol is none, by the format
    at_symbols = HEADER.size + 4 * SEGMENT.size
    at_hash = at_symbols + SYMBOL.size * count
    at_names = at_hash + 4 * (3 + count)
    at_code = at_names + len(names)
    end = at_code + len(RETURN_ZERO)
    at_dynamic = -(-end // PAGE) * PAGE  # a page of its own: the loader writes into it
    table = SYMBOL.pack(0, 0, 0, 0, 0, 0) + b"".join(
        SYMBOL.pack(place, GLOBAL_FUNCTION, 0, 1, at_code, len(RETURN_ZERO)) for place in places[:-1]
    )
    # One bucket: every symbol is in one chain, from the last to the first.
    chain = struct.pack(f"<{3 + count}I", 1, count, count - 1, 0, *range(count - 1))
    dynamic = b"".join(
        DYNAMIC.pack(tag, value)
        for tag, value in (
            (SONAME, places[-1]),
            (HASH, at_hash),
            (STRINGS, at_names),
            (SYMBOLS, at_symbols),
            (STRINGS_BYTES, len(names)),
            (SYMBOL_BYTES, SYMBOL.size),
            (0, 0),
        )
    )
    head = _headers(end, at_dynamic, len(dynamic))
    return (head + table + chain + names + RETURN_ZERO).ljust(at_dynamic, b"\0") + dynamic


def _headers(end: int, at_dynamic: int, dynamic_bytes: int) -> bytes:
    """The file's header and its four segments: code and names, what the loader writes, where that is, the stack."""
    head = HEADER.pack(
        MAGIC,
        SHARED_OBJECT,
        X86_64,
        1,
        0,
        HEADER.size,
        0,
        0,
        HEADER.size,
        SEGMENT.size,
        4,
        SECTION.size,
        0,
        0,
    )
    written = (at_dynamic, at_dynamic, at_dynamic, dynamic_bytes, dynamic_bytes)
    return (
        head
        + SEGMENT.pack(LOAD, READ_EXECUTE, 0, 0, 0, end, end, PAGE)
        + SEGMENT.pack(LOAD, READ_WRITE, *written, PAGE)
        + SEGMENT.pack(DYNAMIC_SEGMENT, READ_WRITE, *written, 8)
        # Without this one the loader gives the whole process an executable stack, or refuses.
        + SEGMENT.pack(STACK, READ_WRITE, 0, 0, 0, 0, 0, 16)
    )

"""Files whose tensors have wrong names: TZ1-22 to TZ1-24."""

from __future__ import annotations

from tz_kit import broken

from scenarios.base import ONE, TWO, invalid, named_file


@invalid("layout", 22)
def name_offset_first_not_0() -> bytes:
    """The first name does not begin at the begin of the names."""
    return broken(ONE, {"tensor[0].name_offset": 1, "tensor[0].name_size": 0})


@invalid("layout", 22)
def name_offset_shared() -> bytes:
    """The second name begins where the first does."""
    return broken(TWO, {"tensor[1].name_offset": 0})


@invalid("layout", 22)
def name_outside_section() -> bytes:
    """The last name ends a byte behind the names section, in its padding."""
    return broken(TWO, {"tensor[1].name_size": 2})


@invalid("layout", 22)
def name_far_outside_section() -> bytes:
    """A name of 65535 bytes in a file of 707."""
    return broken(ONE, {"tensor[0].name_size": 65535})


@invalid("name", 23)
def name_lone_continuation() -> bytes:
    """A continuation byte without a first byte."""
    return named_file(b"a\x80")


@invalid("name", 23)
def name_overlong() -> bytes:
    """A slash in two bytes, which is not the shortest form."""
    return named_file(b"\xc0\xaf")


@invalid("name", 23)
def name_overlong_nul() -> bytes:
    """U+0000 in two bytes, as Java writes it."""
    return named_file(b"\xc0\x80")


@invalid("name", 23)
def name_overlong_4() -> bytes:
    """U+FFFF in four bytes."""
    return named_file(b"\xf0\x8f\xbf\xbf")


@invalid("name", 23)
def name_surrogate_first() -> bytes:
    """U+D800, a surrogate."""
    return named_file(b"\xed\xa0\x80")


@invalid("name", 23)
def name_surrogate_pair() -> bytes:
    """U+1F600 as a pair of surrogates in three bytes each (CESU-8)."""
    return named_file(b"\xed\xa0\xbd\xed\xb8\x80")


@invalid("name", 23)
def name_above_unicode() -> bytes:
    """U+110000, one above the last code point."""
    return named_file(b"\xf4\x90\x80\x80")


@invalid("name", 23)
def name_5_byte_form() -> bytes:
    """A form of five bytes, which UTF-8 no longer has."""
    return named_file(b"\xf8\x88\x80\x80\x80")


@invalid("name", 23)
def name_cut_off() -> bytes:
    """The last character lacks its last byte."""
    return named_file(b"a\xe2\x82")


@invalid("name", 23)
def name_cut_in_two() -> bytes:
    """A character of two bytes is cut by the border of two names."""
    return named_file(b"\xc3", b"\xa9")


@invalid("name", 23)
def name_byte_ff() -> bytes:
    """The byte FF, which occurs nowhere in UTF-8."""
    return named_file(b"\xff")


@invalid("name", 23)
def name_nul() -> bytes:
    """A name with U+0000 in it."""
    return named_file(b"a\0b")


@invalid("name", 23)
def name_newline() -> bytes:
    """A name with a line end in it."""
    return named_file(b"a\nb")


@invalid("name", 23)
def name_control_1f() -> bytes:
    """A name with U+001F, the last control character before the space."""
    return named_file(b"\x1f")


@invalid("name", 23)
def name_control_7f() -> bytes:
    """A name with U+007F."""
    return named_file(b"a\x7f")


@invalid("name", 23)
def name_control_80() -> bytes:
    """A name with U+0080, in two bytes."""
    return named_file(b"\xc2\x80")


@invalid("name", 23)
def name_control_9f() -> bytes:
    """A name with U+009F, the last control character."""
    return named_file(b"\xc2\x9f")


@invalid("name", 24)
def names_equal() -> bytes:
    """Two tensors of the same name."""
    return named_file(b"a", b"a")


@invalid("name", 24)
def names_empty_twice() -> bytes:
    """Two tensors with an empty name."""
    return named_file(b"", b"")


@invalid("name", 24)
def names_descending() -> bytes:
    """Names in descending order."""
    return named_file(b"b", b"a")


@invalid("name", 24)
def names_prefix_after() -> bytes:
    """A name follows another that it is the beginning of."""
    return named_file(b"ab", b"a")


@invalid("name", 24)
def names_in_utf16_order() -> bytes:
    """U+10000 before U+FF5E: ascending in UTF-16, descending as bytes."""
    return named_file("\U00010000".encode(), "\uff5e".encode())


@invalid("name", 24)
def names_as_signed_bytes() -> bytes:
    """U+00E9 before "e": ascending for a reader that compares signed bytes."""
    return named_file("\u00e9".encode(), b"e")

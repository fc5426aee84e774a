"""Ways to damage the bytes of a file, each by a random generator, so that a number tells which damage it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random


def flip_bit(content: bytes, random: Random) -> bytes:
    """Flip one bit."""
    if not content:
        return b"\x01"
    damaged = bytearray(content)
    damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def change_digit(content: bytes, random: Random) -> bytes:
    """Change one digit into another, which leaves most text well formed."""
    places = [found.start() for found in re.finditer(rb"\d", content)]
    if not places:
        return flip_bit(content, random)
    place = random.choice(places)
    other = random.choice([digit for digit in b"0123456789" if digit != content[place]])
    return content[:place] + bytes([other]) + content[place + 1 :]


def cut(content: bytes, random: Random) -> bytes:
    """Cut the end off, as a full disk or a power cut does."""
    return content[: random.randrange(max(1, len(content)))]


def empty(_content: bytes, _random: Random) -> bytes:
    """Leave nothing."""
    return b""


def fill_with_zeros(content: bytes, random: Random) -> bytes:
    """Fill the end with zeros, as some file systems do after a power cut."""
    keep = random.randrange(max(1, len(content)))
    return content[:keep] + bytes(len(content) - keep)


def swap_parts(content: bytes, random: Random) -> bytes:
    """Exchange two stretches."""
    if len(content) < 4:
        return content + b"x"
    first, second, third = sorted(random.sample(range(len(content) + 1), 3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def insert_noise(content: bytes, random: Random) -> bytes:
    """Insert some random bytes."""
    place = random.randrange(len(content) + 1)
    return content[:place] + random.randbytes(random.randint(1, 40)) + content[place:]


DAMAGES: Mapping[str, Callable[[bytes, Random], bytes]] = {
    "one bit": flip_bit,
    "one digit": change_digit,
    "cut": cut,
    "empty": empty,
    "zeros": fill_with_zeros,
    "swapped": swap_parts,
    "noise": insert_noise,
}

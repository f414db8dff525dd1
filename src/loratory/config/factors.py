"""How the widths of layers are split into factors: the rules of LyCORIS, so that its files and these have one shape."""

from math import isqrt


def factors(width: int, factor: int) -> tuple[int, int]:
    """Two numbers, smaller first, whose product is `width`.

    A factor above 0 that divides the width is one of them; otherwise the smaller is the largest divisor up to the
    factor and the square root. -1: as near to the square root as there is. A prime gives (1, width).
    """
    if factor > 0 and width % factor == 0:
        return min(factor, width // factor), max(factor, width // factor)
    most = isqrt(width) if factor < 0 else min(isqrt(width), factor)
    smaller = next(number for number in range(most, 0, -1) if width % number == 0)
    return smaller, width // smaller


def butterfly_size(width: int, largest: int) -> int | None:
    """The largest even divisor of `width` up to `largest` that is a power of two times smaller than it, or None."""
    sizes = [size for size in butterfly_sizes(width) if size <= largest]
    return sizes[-1] if sizes else None


def butterfly_sizes(width: int) -> list[int]:
    """The even numbers that give `width` when doubled often enough, smallest first; none for an odd width."""
    odd = width // (width & -width)
    sizes = [odd << doublings for doublings in range(1, width.bit_length())]
    return [size for size in sizes if size <= width]

"""Pictures that are the same, nearly the same, or mirror images of each other.

Hashes propose pairs and thumbnails decide, so that flat pictures and common compositions, whose hashes are near each
other by chance, are not taken for copies. How often that is right is in docs/performance.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from loratory.imaging.facts import PictureFacts
from loratory.imaging.fingerprints import SIDE_PX, hashes
from loratory.imaging.stars import stars

Levels = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Kind = Literal["same", "similar", "mirrored"]

# Of the 64 bits of two hashes, how many may differ for the thumbnails to be compared: two unrelated pictures come this
# near by chance now and then, copies nearly always.
_FARTHEST_BITS = 18
# Least correlation of the thumbnails' grey levels: all of the picture, and of its details.
_ALIKE, _DETAILS_ALIKE = 0.94, 0.75
# Standard deviation, in levels, below which a thumbnail shows nothing that could be compared.
_FLAT = 3.0
# How much of each side may have been cut off, beside nothing: thumbnails are compared as if it were.
_CUTS = (0.0, 0.03)
# Mirror images of each other must be more alike than the two as they are: all is alike in symmetrical pictures.
_MARGIN = 0.02
_BLOCK = 512


@dataclass(frozen=True)
class Group:
    """kind: "same" has the same bytes, "similar" is nearly the same picture, "mirrored" the same but left and right
    exchanged. members: indices of the facts, ascending, at least two. distance: the largest number of bits, 0 to 64, by
    which a member's hash is off that of the group's centre (of its mirror image for "mirrored")."""

    kind: Kind
    members: tuple[int, ...]
    distance: int


def near_duplicates(facts: Sequence[PictureFacts]) -> list[Group]:
    """The groups among the pictures that could be read; those of the kind "same" first, then by their first member.

    Of pictures with the same bytes only the first is compared with others. Every member of a group is alike to the one
    in its centre: a long series of small changes is several groups. 10,000 pictures take 8 s of one core and 500 MB;
    copies cost by their pairs, 3,000 frames of one scene 30 s.
    """
    by_digest: dict[str, list[int]] = {}
    for index, each in enumerate(facts):
        if not each.problem:
            by_digest.setdefault(each.digest, []).append(index)
    same = [Group("same", tuple(members), 0) for members in by_digest.values() if len(members) > 1]
    chosen = np.array([members[0] for members in by_digest.values() if facts[members[0]].thumbnail], np.intp)
    alike, turned = _alike(facts, chosen)
    groups = stars(alike, len(facts))
    centre_of = {index: index for index in range(len(facts))} | {one: group[0] for group in groups for one in group}
    facing = _merged((centre_of[first], first, centre_of[second], second) for first, second in turned.tolist())
    similar = [
        Group("similar", tuple(sorted(group)), max(_bits(facts[group[0]].hash, facts[each].hash) for each in group[1:]))
        for group in groups
    ]
    mirrored = [
        Group(
            "mirrored", members, max(_bits(facts[members[0]].mirrored_hash, facts[each].hash) for each in members[1:])
        )
        for members in facing
    ]
    order = {"same": 0, "similar": 1, "mirrored": 2}
    return sorted([*same, *similar, *mirrored], key=lambda group: (order[group.kind], group.members))


def _alike(facts: Sequence[PictureFacts], chosen: Indices) -> tuple[Indices, Indices]:
    """The similar and the mirrored ones among some pictures, as the thumbnails confirm: pairs of indices of `facts`.

    chosen: indices. A pair is (n, 2), the smaller index first, each once; none is both similar and mirrored.
    """
    thumbnails = np.array([np.frombuffer(facts[index].thumbnail, np.uint8) for index in chosen], np.uint8)
    thumbnails = thumbnails.reshape(len(chosen), SIDE_PX, SIDE_PX)
    seen = thumbnails.std(axis=(1, 2)) >= _FLAT
    thumbnails, indices = thumbnails[seen], chosen[seen]
    as_they_are, turned = _views(thumbnails), _views(thumbnails[:, :, ::-1])
    similar, mirrored = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
    for cut in _CUTS:
        cropped = _views(_cut(thumbnails, cut)) if cut else as_they_are
        for firsts, seconds in _near_pairs(cropped.signs, as_they_are.signs, ordered=not cut):
            alike = _are_alike(cropped, as_they_are, firsts, seconds)[0]
            similar.append(_codes(indices[firsts[alike]], indices[seconds[alike]], len(facts)))
        for firsts, seconds in _near_pairs(cropped.signs, turned.signs, ordered=not cut):
            alike, likeness = _are_alike(cropped, turned, firsts, seconds)
            alike &= likeness > _products(cropped.whole, as_they_are.whole, firsts, seconds) + _MARGIN
            mirrored.append(_codes(indices[firsts[alike]], indices[seconds[alike]], len(facts)))
    as_is = np.unique(np.concatenate(similar))
    facing = np.setdiff1d(np.concatenate(mirrored), as_is)
    return _pairs(as_is, len(facts)), _pairs(facing, len(facts))


def _codes(first: Indices, second: Indices, count: int) -> Indices:
    """A number for each pair of indices below `count`, whichever comes first: sets full of copies have millions."""
    return np.minimum(first, second) * count + np.maximum(first, second)


def _pairs(codes: Indices, count: int) -> Indices:
    """The pairs of `_codes`: (n, 2), the smaller index first."""
    return np.stack(np.divmod(codes, max(1, count)), axis=1)


class _Views(NamedTuple):
    """What is compared, one row each. signs: +1 or -1 for each bit of the hash. whole, details: standardized levels."""

    signs: Levels
    whole: Levels
    details: Levels


def _views(thumbnails: npt.NDArray[np.uint8]) -> _Views:
    signs = [_signs(hashes(thumbnail)[0]) for thumbnail in thumbnails]
    return _Views(
        np.array(signs, np.float32).reshape(-1, 64), _standardized(_averaged(thumbnails, 4)), _details(thumbnails)
    )


def _cut(thumbnails: npt.NDArray[np.uint8], share: float) -> npt.NDArray[np.uint8]:
    """What the thumbnails would be had `share` of the sides been cut off all around."""
    places = np.linspace(share * SIDE_PX, (1 - share) * SIDE_PX, SIDE_PX, endpoint=False) + 0.5 - share
    places = np.clip(places - 0.5, 0, SIDE_PX - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(SIDE_PX))).astype(np.float32)
    return np.array([np.rint(weights @ each.astype(np.float32) @ weights.T) for each in thumbnails]).astype(np.uint8)


def _are_alike(
    firsts: _Views, seconds: _Views, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    likeness = _products(firsts.whole, seconds.whole, rows, columns)
    details = _products(firsts.details, seconds.details, rows, columns)
    return (likeness >= _ALIKE) & (details >= _DETAILS_ALIKE), likeness


def _near_pairs(
    firsts: Levels, seconds: Levels, *, ordered: bool
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Pairs (i, j), i != j, or i < j where `ordered`, of hashes that differ in few bits, in pieces.

    The product of two rows of signs is 64 minus twice the number of differing bits: one matrix product counts the bits
    of millions of pairs in a fraction of a second.
    """
    least = 64 - 2 * _FARTHEST_BITS
    for start in range(0, len(firsts), _BLOCK):
        rows, columns = np.nonzero(firsts[start : start + _BLOCK] @ seconds.T >= least)
        rows += start
        wanted = columns > rows if ordered else columns != rows
        # In pieces: sets full of copies have millions of pairs.
        rows, columns = rows[wanted], columns[wanted]
        for piece in range(0, len(rows), 1 << 16):
            yield rows[piece : piece + (1 << 16)], columns[piece : piece + (1 << 16)]


def _signs(hash_: int) -> Levels:
    return np.unpackbits(np.frombuffer(hash_.to_bytes(8, "big"), np.uint8)).astype(np.float32) * 2 - 1


def _averaged(thumbnails: npt.NDArray[np.uint8], side_px: int) -> Levels:
    """(n, cells) of the means of cells of side_px."""
    count, cells = len(thumbnails), SIDE_PX // side_px
    means = thumbnails.reshape(count, cells, side_px, cells, side_px).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(count, cells * cells)


def _details(thumbnails: npt.NDArray[np.uint8]) -> Levels:
    """What is left of the thumbnails at 32x32 without what a 8x8 one shows, standardized."""
    fine = _averaged(thumbnails, 2).reshape(-1, 32, 32)
    coarse = _averaged(thumbnails, 8).reshape(-1, 8, 8).repeat(4, axis=1).repeat(4, axis=2)
    return _standardized((fine - coarse).reshape(len(thumbnails), 32 * 32))


def _standardized(rows: Levels) -> Levels:
    """Rows of mean 0 and length 1: their products are correlations."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _products(
    firsts: Levels, seconds: Levels, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """The products of the rows of a pair, for each pair."""
    result = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 4096):
        piece = slice(start, start + 4096)
        result[piece] = np.einsum("ij,ij->i", firsts[rows[piece]], seconds[columns[piece]])
    return result


def _merged(pairs: Iterator[tuple[int, int, int, int]]) -> list[tuple[int, ...]]:
    """Mirrored pairs by the groups of similar pictures that they join: the first of one with all of the other that
    face the other way. pairs: (centre, index, centre, index)."""
    by_centres: dict[tuple[int, int], tuple[set[int], set[int]]] = {}
    for first_centre, first, second_centre, second in pairs:
        if first_centre == second_centre:
            continue
        if first_centre > second_centre:
            first_centre, first, second_centre, second = second_centre, second, first_centre, first
        ours, theirs = by_centres.setdefault((first_centre, second_centre), (set(), set()))
        ours.add(first)
        theirs.add(second)
    return sorted({tuple(sorted((min(ours), min(theirs)))) for ours, theirs in by_centres.values()})


def _bits(first: int, second: int) -> int:
    return (first ^ second).bit_count()

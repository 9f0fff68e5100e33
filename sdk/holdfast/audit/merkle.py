"""RFC 6962 Merkle trees: hashes, and the verification of inclusion and consistency proofs. Pure.

Verification returns nothing or raises AuditInvalid. Hashes are 32 bytes. Source: RFC 6962 2.1, RFC 9162 2.1.3-4.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from holdfast.errors import AuditInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HASH_BYTES: Final = 32
MAX_SIZE: Final = 2**63 - 1
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def hash_leaf(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf *hashes*. Of no leaves it is the hash of nothing."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        pairs = [hash_children(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        level = pairs if len(level) % 2 == 0 else [*pairs, level[-1]]
    return level[0]


def prove_inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the proof that leaf hash `index` is in the tree over `leaves`. Raises: ValueError for no such leaf."""
    if not 0 <= index < len(leaves):
        raise ValueError("there is no such leaf")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*prove_inclusion(leaves[:split], index), root(leaves[split:])]
    return [*prove_inclusion(leaves[split:], index - split), root(leaves[:split])]


def prove_consistency(leaves: Sequence[bytes], size1: int) -> list[bytes]:
    """Return the proof that the tree over the first `size1` leaf hashes is a prefix. Raises: ValueError."""
    if not 0 < size1 <= len(leaves):
        raise ValueError("the smaller tree has at least one leaf and is not larger")
    return _subproof(leaves, size1, complete=True)


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash stands at `index` in the tree of `size` leaves. Raises: AuditInvalid."""
    _check_hashes(leaf, root, *proof)
    if not 0 <= index < size <= MAX_SIZE:
        raise AuditInvalid("the leaf is outside of the tree")
    current = leaf
    for sibling, on_the_left in _climb(index, size - 1, proof):
        current = hash_children(sibling, current) if on_the_left else hash_children(current, sibling)
    _same(current, root, "the inclusion proof leads to another root")


def verify_consistency(*, size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> None:
    """Check that the tree of `size1` leaves is a prefix of that of `size2`. Raises: AuditInvalid.

    The empty tree is a prefix of every tree, so a proof from it would prove nothing: `size1 == 0` is an error.
    """
    _check_hashes(root1, root2, *proof)
    if not 0 < size1 <= size2 <= MAX_SIZE:
        raise AuditInvalid("the sizes of a consistency proof are not in order, or the smaller tree is empty")
    if size1 == size2:
        if proof:
            raise AuditInvalid("trees of one size need no proof")
        _same(root1, root2, "trees of one size have two roots")
        return
    path = list(proof)
    if size1 & (size1 - 1) == 0:  # a complete subtree of the larger tree: its root is the first node
        path.insert(0, root1)
    if not path:
        raise AuditInvalid("the consistency proof is empty")
    node, last = size1 - 1, size2 - 1
    while node % 2 == 1:
        node, last = node // 2, last // 2
    first = second = path[0]
    for sibling, on_the_left in _climb(node, last, path[1:]):
        if on_the_left:
            first, second = hash_children(sibling, first), hash_children(sibling, second)
        else:
            second = hash_children(second, sibling)
    _same(first, root1, "the consistency proof leads to another first root")
    _same(second, root2, "the consistency proof leads to another second root")


def _climb(node: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each sibling on the way up, and whether it stands on the left. Raises: AuditInvalid for a wrong length."""
    for sibling in proof:
        if last == 0:
            raise AuditInvalid("the proof is too long")
        on_the_left = node % 2 == 1 or node == last
        yield sibling, on_the_left
        while on_the_left and node % 2 == 0 and node != 0:
            node, last = node // 2, last // 2
        node, last = node // 2, last // 2
    if last != 0:
        raise AuditInvalid("the proof is too short")


def _subproof(leaves: Sequence[bytes], size1: int, *, complete: bool) -> list[bytes]:
    if size1 == len(leaves):
        return [] if complete else [root(leaves)]
    split = _split(len(leaves))
    if size1 <= split:
        return [*_subproof(leaves[:split], size1, complete=complete), root(leaves[split:])]
    return [*_subproof(leaves[split:], size1 - split, complete=False), root(leaves[:split])]


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(*hashes: bytes) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise AuditInvalid("a hash has another length than 32 bytes")


def _same(computed: bytes, claimed: bytes, why: str) -> None:
    if not hmac.compare_digest(computed, claimed):
        raise AuditInvalid(why)

"""RFC 6962 proofs, against the published vectors and against each other."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from holdfast.audit.merkle import (
    EMPTY_ROOT,
    hash_leaf,
    prove_consistency,
    prove_inclusion,
    root,
    verify_consistency,
    verify_inclusion,
)
from holdfast.errors import AuditInvalid

VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "rfc6962"
published = pytest.mark.skipif(not VECTORS.is_dir(), reason="the published vectors are not beside the checkout")


def cases(kind):
    return sorted((VECTORS / kind).rglob("*.json")) if VECTORS.is_dir() else []


def b64(text):
    return base64.b64decode(text or "")


def holds(verify, **arguments) -> bool:
    try:
        verify(**arguments)
    except AuditInvalid:
        return False
    return True


@published
def test_all_the_published_cases_are_there():
    assert (len(cases("inclusion")), len(cases("consistency"))) == (98, 98)


@pytest.mark.parametrize("path", cases("inclusion"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_inclusion_proofs(path):
    case = json.loads(path.read_bytes())
    assert (
        holds(
            verify_inclusion,
            leaf=b64(case["leafHash"]),
            index=case["leafIdx"],
            size=case["treeSize"],
            proof=[b64(each) for each in case["proof"] or []],
            root=b64(case["root"]),
        )
        is not case["wantErr"]
    )


@pytest.mark.parametrize("path", cases("consistency"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_consistency_proofs(path):
    case = json.loads(path.read_bytes())
    roots = [b64(case["root1"]), b64(case["root2"])]
    # One case has text for roots, "don't care"; here every hash has the length of one.
    are_hashes = {len(each) for each in roots} <= {32}
    assert holds(
        verify_consistency,
        size1=case["size1"],
        size2=case["size2"],
        proof=[b64(each) for each in case["proof"] or []],
        root1=roots[0],
        root2=roots[1],
    ) is (not case["wantErr"] and are_hashes)
    assert case["size1"] > 0 or case["wantErr"], "the empty tree proves nothing"


LEAVES = [hash_leaf(bytes([number])) for number in range(33)]


def test_every_leaf_of_every_small_tree_is_proved_and_no_other():
    for size in range(1, len(LEAVES) + 1):
        leaves = LEAVES[:size]
        for index in range(size):
            proof = prove_inclusion(leaves, index)
            good = {"leaf": leaves[index], "index": index, "size": size, "proof": proof, "root": root(leaves)}
            verify_inclusion(**good)
            assert not holds(verify_inclusion, **{**good, "leaf": hash_leaf(b"other")})
            assert not holds(verify_inclusion, **{**good, "index": index + 1})
            assert not holds(verify_inclusion, **{**good, "proof": [*proof, proof[-1] if proof else LEAVES[0]]})
            assert not holds(verify_inclusion, **{**good, "root": EMPTY_ROOT})


def test_every_small_tree_is_a_prefix_of_every_larger_one_and_of_no_other():
    for size2 in range(1, len(LEAVES) + 1):
        for size1 in range(1, size2 + 1):
            proof = prove_consistency(LEAVES[:size2], size1)
            good = {
                "size1": size1,
                "size2": size2,
                "proof": proof,
                "root1": root(LEAVES[:size1]),
                "root2": root(LEAVES[:size2]),
            }
            verify_consistency(**good)
            assert not holds(verify_consistency, **{**good, "root1": EMPTY_ROOT})
            assert not holds(verify_consistency, **{**good, "root2": EMPTY_ROOT})
            assert not holds(verify_consistency, **{**good, "proof": [*proof, LEAVES[0]]})


def test_the_empty_tree_proves_nothing():
    assert not holds(verify_consistency, size1=0, size2=0, proof=[], root1=EMPTY_ROOT, root2=EMPTY_ROOT)
    assert not holds(verify_consistency, size1=0, size2=1, proof=[], root1=EMPTY_ROOT, root2=LEAVES[0])
    assert not holds(verify_inclusion, leaf=LEAVES[0], index=0, size=0, proof=[], root=EMPTY_ROOT)
    assert root([]) == EMPTY_ROOT


def test_hashes_of_another_length_are_refused():
    assert not holds(verify_inclusion, leaf=b"", index=0, size=1, proof=[], root=b"")


@pytest.mark.parametrize(("prove", "wrong"), [(prove_inclusion, 33), (prove_inclusion, -1), (prove_consistency, 0)])
def test_a_proof_of_nothing_cannot_be_made(prove, wrong):
    with pytest.raises(ValueError, match=r".+"):
        prove(LEAVES, wrong)

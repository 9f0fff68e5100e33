"""The private keys lie in a file for their owner alone; anything else is no key file."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.outbound.keys import MAX_KEYS, read_private_keys
from services.outbound.signature import KeyMalformed, encode_private

KEYS = [Ed25519PrivateKey.generate() for _ in range(MAX_KEYS + 1)]


def written(path, *lines: str, mode: int = 0o600):
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def test_one_key_or_a_few_are_read_in_order(tmp_path):
    texts = [encode_private(key) for key in KEYS[:2]]
    read = read_private_keys(written(tmp_path / "k", *texts, ""))
    assert [encode_private(key) for key in read] == texts


@pytest.mark.parametrize("lines", [[], [""], ["whsk_AAAA"], ["x"], ["ö"], [encode_private(key) for key in KEYS]])
def test_a_file_without_keys_or_with_too_many_is_refused(tmp_path, lines):
    with pytest.raises(KeyMalformed):
        read_private_keys(written(tmp_path / "k", *lines))


def test_a_file_that_others_can_read_or_that_is_not_there_is_refused(tmp_path):
    for path in (written(tmp_path / "k", encode_private(KEYS[0]), mode=0o640), tmp_path / "none"):
        with pytest.raises(KeyMalformed) as caught:
            read_private_keys(path)
        assert "whsk_" not in str(caught.value)

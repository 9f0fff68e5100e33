"""The one base64url of seals and keys: unpadded, canonical."""

from __future__ import annotations

import base64
import binascii

from holdfast.errors import AuditInvalid
from holdfast.token import b64url


def decode_b64url(text: str) -> bytes:
    """Return the bytes. Raises: AuditInvalid unless `text` is exactly how `b64url` writes them."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise AuditInvalid("the base64url is malformed") from error
    if b64url(data) != text:
        raise AuditInvalid("the base64url is not canonical")
    return data

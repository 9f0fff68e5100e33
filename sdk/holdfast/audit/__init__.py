"""The audit log as anybody can check it: records, chains, seals. Pure, but for `python -m holdfast.audit`."""

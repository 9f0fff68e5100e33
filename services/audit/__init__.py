"""The chain of one stream, as pure rules over `holdfast.audit.record`."""

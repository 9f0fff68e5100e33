"""The recorder: lanes that chain, commit in groups, and fall back to a journal."""

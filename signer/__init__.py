"""The Ed25519 token signer: a process of its own, with a profile of its own."""

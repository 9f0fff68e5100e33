"""Holdfast for agents, executors and auditors: the wire contract, the client, the guard and the log verifier."""

"""The HTTP boundary: strict parsing in, envelopes and problems out."""

"""How fast Holdfast is, beside a floor that decides nothing. Method: docs/benchmarks.md."""

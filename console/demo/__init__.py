"""The outage story, played on real parts: what `holdfast demo` runs."""

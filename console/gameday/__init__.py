"""Every boundary of a throw-away twin tripped in turn: what `holdfast gameday` runs."""

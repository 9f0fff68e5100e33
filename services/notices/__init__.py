"""Who is told when something breaks, and how."""

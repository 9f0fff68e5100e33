"""What leaves for receivers outside: how it is signed, and where it may go."""

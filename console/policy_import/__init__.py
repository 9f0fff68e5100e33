"""Policies of other systems, read strictly and written as a bundle. Pure: bytes in, bytes and notes out."""

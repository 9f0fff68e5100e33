"""The languages that receivers speak."""

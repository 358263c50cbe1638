"""Wear, rest, sleep and circadian rhythms of minutes and days, on NumPy arrays."""

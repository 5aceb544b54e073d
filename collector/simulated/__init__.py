"""A simulated fleet: what it is made of, what it works on, how it draws power and what goes wrong with it.

It reads no clock and no network: the same seed and the same times give the same records.
"""

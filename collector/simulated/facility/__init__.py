"""A facility that does not exist, around the simulated fleet: its physics, its meters, and their ports.

docs/simulate.md says what is modelled and where its numbers come from.
"""

"""Measurements, each against a limit or a peer in one run."""

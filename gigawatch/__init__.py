"""Gigawatch: power, energy per token and PUE of AI factories; what every room shares."""

__version__ = "0.1.0"

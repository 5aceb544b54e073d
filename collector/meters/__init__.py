"""Meters of the facility: read by their own protocols, folded into windows."""

"""Topologies of sites, from a YAML file to the store; see docs/topology.md."""

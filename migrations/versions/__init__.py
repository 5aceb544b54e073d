"""Tables, version by version."""

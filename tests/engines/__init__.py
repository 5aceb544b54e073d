"""What engines serve, one exposition each after its own source, which its head names."""

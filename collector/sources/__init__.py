"""What an agent reads: NVML, the host."""

"""What people declare in files, read into its types: topologies, rules of alerts and their configuration."""

"""The HTTP service: takes batches in, answers reads, keeps tokens."""

"""The relay: takes agents' batches as the API does, keeps them on disk, and forwards many of them in one request."""

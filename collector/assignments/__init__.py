"""Which GPUs of this node serve which deployment: by the settings, and by what is found on the node."""

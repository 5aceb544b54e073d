"""The node agent: reads GPUs and the host, folds readings into windows, spools and sends them."""

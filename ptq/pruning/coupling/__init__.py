"""Which channels of all tensors of a network stand or fall together."""

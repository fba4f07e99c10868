"""Which tensors become integers, and a network that computes with them."""

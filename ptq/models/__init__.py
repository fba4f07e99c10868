"""A reference becomes a network with everything known about it."""

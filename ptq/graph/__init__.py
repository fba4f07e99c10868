"""A module in, a float graph in canonical form out."""

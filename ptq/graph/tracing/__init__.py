"""From people's code to a graph: what torch.fx cannot follow is rewritten, the rest is recorded, and both are compared."""

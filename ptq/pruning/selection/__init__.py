"""What channels are worth and what they cost, and which are kept for a budget."""

"""Each step that repairs what is left, and the arithmetic that it needs."""

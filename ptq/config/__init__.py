"""What a run depends on, as data."""

"""Blocks tuned to give what they gave in float."""

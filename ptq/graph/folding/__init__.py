"""Scales, shifts and branches go into the layers beside them, exactly."""

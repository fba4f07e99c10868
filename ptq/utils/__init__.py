"""What every package may use and none is about: files, units, machines, arithmetic of metrics."""

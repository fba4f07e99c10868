"""What every package may use and none is about: files, work on disk, units, the machine, metrics.

Imports `ptq.errors` alone.
"""

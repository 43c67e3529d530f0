"""Devices: the mesh of a run, its processes, and what a device takes, gives and costs."""

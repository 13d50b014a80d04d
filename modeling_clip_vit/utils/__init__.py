"""Foundations that every sub-package may use: errors, devices, processes, folders, packages."""

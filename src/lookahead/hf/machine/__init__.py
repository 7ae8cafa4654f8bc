"""Devices, dtypes and folders of this machine."""

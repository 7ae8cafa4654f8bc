"""The machine: devices, dtypes and the cache folder."""

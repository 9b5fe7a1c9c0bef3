"""Running studies: on every core of this machine, or on a Dask cluster, with the same outcome."""

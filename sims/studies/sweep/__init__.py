"""Run studies on all cores of this machine or on a Dask cluster, with the same results."""

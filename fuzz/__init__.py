"""Fuzz targets for every parser of untrusted bytes. See README.md."""

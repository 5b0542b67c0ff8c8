"""Tests of the page, a package that shares one browser."""

"""Tests of the lab: pure ones, and a story on real containers."""

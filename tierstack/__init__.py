"""Tierstack: one inventory file turns plain Linux hosts into a tiered Django cluster."""

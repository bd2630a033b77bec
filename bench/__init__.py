"""Figures for docs/performance.md: measured on the running product, side by side with a baseline in the same run."""

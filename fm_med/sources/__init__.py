"""Makers of cohorts, one file per source: each reads with a room, writes with `fm_med.cohort`."""

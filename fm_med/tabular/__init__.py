"""Clinical tables: cells to tensors, and encoders for one row or many visits per person."""

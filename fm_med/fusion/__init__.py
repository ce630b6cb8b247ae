"""Two encoders of different modalities as one, also for rows that have only one of them."""

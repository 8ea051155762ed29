"""Games that come from other processes: stores, workers, and what travels between them."""

"""Training on the feature store and fine-tuning from the frozen boundary."""

"""From photos to the feature store."""

"""What a run leaves for people: scores, pictures, the report and the model card."""

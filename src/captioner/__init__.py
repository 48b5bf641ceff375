"""Image captioning in stages: archives -> captions -> feature store -> decoder -> fine-tuned model -> metrics."""

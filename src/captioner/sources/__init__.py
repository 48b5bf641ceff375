"""Where data comes from: downloads, drawn pictures, a folder of your own, weights."""

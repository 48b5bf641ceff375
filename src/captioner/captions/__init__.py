"""From caption files to word ids."""

"""What every stage stands on: errors, files, params, the machine."""

"""The basis of all stages: errors, files, params, the machine, resuming, several processes.

- `errors`: the exception for errors that a user can correct
- `files`: atomic writes, JSON, checksums
- `streams`: printing that never stops a program
- `params`: reading params.yaml and checking it by params_schema.json
- `device`: the device, the precision, deterministic results
- `distributed`: training in several processes
- `resume`: the state from which an interrupted stage resumes
- `stage`: the common part of all stage scripts
"""

"""What every stage stands on: errors, files, params, the machine, resuming, several processes.

- `errors`: the exception for what a user can correct
- `files`: writing files whole or not at all
- `streams`: printing that never stops a program
- `params`: reading params.yaml and checking it by params_schema.json
- `device`: the device, the precision, the same bytes each time
- `distributed`: several processes that train as one
- `resume`: the state from which an interrupted stage resumes
- `stage`: what every stage script does around its own work
"""

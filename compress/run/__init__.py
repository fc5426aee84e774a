"""A run, step by step: everything that knows a run's folder. Its files read in the order of the arrow.

`pipeline` is the whole run on one screen. `context`, `cache`, `data` and `build` are what its steps share; `dry_run`,
`teachers`, `students`, `seeds`, `lockstep` and `stage` train; `export`, `int8`, `qad`, `verify` and `measure` turn what was
trained into files; `report` and `handover` close the run; `reload` and `reexport` open a finished one again.
"""

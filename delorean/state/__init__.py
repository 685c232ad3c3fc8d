"""Which capture of a service and which version of a global element serves a row.

`rules` holds what an experiment may demand, `sources` resolves which snapshots and versions times can see, `captures`
and `versions` match rows with them, `capture_values` and `version_values` read the matched values, and `provenance`
reports where each row's data comes from. Time travel, coverage, generation and serving all resolve state here.
"""

"""Speed beside peers, in turns in one run; `asgc-rl bench` is `training` and `recording_cost`."""

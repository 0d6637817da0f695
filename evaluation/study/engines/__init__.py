"""What executes the runs of a study: this machine, a preloaded process that forks, Ray."""

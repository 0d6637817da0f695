"""Studies: tasks x optimizers x settings x seeds as a list of training commands, run by an engine, resumable.

    spec      the definition (a YAML file), read and checked with all its faults at once
    space     search spaces: ranges, stratified and random points
    search    tuning by Optuna, a pure function of the finished trials
    plan      the runs that a definition asks for, as far as the results so far determine them
    folder    the study folder: definition, index of runs, lock
    jobs      one run as a process: start, resume, outcome
    local, cluster   the engines: this machine's cores and GPUs; Ray
    driver    plan -> engine -> results, until nothing is left to do
    status    what is done, running, failed, missing

A study knows trainers only as programs: it never imports one.
"""

"""Studies: tasks x optimizers x settings x seeds as a list of training commands, run by an engine, resumable.

    entry, space, spec   the definition (a YAML file), read and checked with all its faults at once
    run_id               what tells a run apart, and its folder
    search               tuning by Optuna, a pure function of the finished trials
    plan                 the runs that a definition asks for, as far as the results so far determine them
    study_folder         the study's folder: definition, index of runs, lock, what the runs gave
    program              the trainer, known as a program only: it checks all command lines beforehand
    engines/             what carries out the runs: base (the interface), local, forked, ray; choose (by name)
    progress, status     what is finished, running, failed, missing, and what the rest costs; the displays
    driver               plan -> engine -> results, until nothing is left to do

A study never imports a trainer.
"""

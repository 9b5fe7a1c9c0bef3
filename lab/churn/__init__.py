"""Compare real nodes under scripted churn with a simulation of the same script.

::

    script ──┬──> real:       a process for each node, in a network namespace of its own
             │                SIGKILL and restart as the script says; clients ask for paths
             └──> simulated:  the same cores on one event heap, several seeds
                       └──────> comparison: both columns, intervals, verdict

``python3 -m lab.churn`` runs all of it (as root, or through ``python3 -m lab.namespaces``).
"""

"""The paper's experiment (its Figures 6 to 14), repeated on today's kernel.

::

    cells         what is measured: metric, cipher, tunnels, packet size; which figure shows it
    chain         Figure 6: five nodes in a chain of slow links, in namespaces
    apm_node      one node of the chain: APM and links with the kernel's IPsec
    circuits      every circuit of the experiment, set up by onion messages
    probes        round trips and packet trains
    estimators    RFC 3550's jitter, confidence intervals
    campaign      rounds over all cells in random order, until the intervals are narrow
    observations  the measured values, written to disk at once
    summary       one row for each cell
    figures       twelve figures
    statements    the paper's statements, compared with the rows

``python3 -m lab.paper`` runs all of it. ``make paper`` also installs its requirements.

Reasons: docs/decisions/0017.
"""

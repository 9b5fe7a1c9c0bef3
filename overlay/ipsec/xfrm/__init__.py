"""The Linux kernel as IPsec engine: netlink's XFRM family, and the backend on top of it.

::

    backend.py      XfrmBackend: configurations in, SAs, policies and addresses in the kernel
    checks.py       what the kernel would refuse, told before it is asked
    changes.py      entries to install and to take back; what a killed process left
    counting.py     how many policies of ours there are
    debris.py       what a failure left in the kernel, until it is removed
    probe.py        which suites this kernel has
    device.py       what holds the overlay's addresses and routes
    entries.py      our values as netlink messages and back; how our own entries are known
    algorithms.py   the ESP suites by the kernel's names
    netlink.py      requests, dumps and events; refusals as one sentence
    messages.py     the wire format, in pyroute2's declarative style
    attributes.py   likewise, what hangs off a message
    packing.py      its structs, packed in one step
    forms.py        messages of one shape: encoded once by those classes, then filled in
    moves.py        from where else than expected packets of link SAs came
    encapsulation.py  the UDP socket's part of ESP in UDP
"""

"""The IPsec backend that uses the Linux kernel, through netlink's XFRM family.

::

    backend.py           XfrmBackend: installs configurations as SAs, policies and addresses
    checks.py            refuses configurations that the kernel does not support
    changes.py           requests that install entries and remove them; entries of a killed process
    counting.py          counts the policies of this product in the kernel
    pending_removals.py  entries that could not be removed yet
    probe.py             finds the suites that this kernel supports
    device.py            the device with the overlay's addresses and routes
    entries.py           converts values to netlink messages and back; recognises own entries
    relocation.py        moves link SAs to other endpoints
    moved_links.py       policies of links that have moved
    moves.py             reports link SAs whose packets come from another endpoint
    algorithms.py        the kernel's names of the ESP suites
    netlink.py           requests, dumps and events; refusals as error messages
    messages.py          the wire format of messages, in pyroute2's declarative style
    attributes.py        the wire format of attributes
    packing.py           packs whole structs in one step
    forms.py             encodes messages of one shape once, and fills in copies
    leftovers.py         removes what a killed node of this backend left
    encapsulation.py     sets up the UDP socket for ESP in UDP
"""

"""An IPsec backend of another distribution: it counts its calls, and leaves ESP to the engine."""

from contextlib import contextmanager
from dataclasses import replace

from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.backend_plugin import BackendFeatures
from overlay.node.userspace_shell import UserspaceShell


class CountingEngine(UserspaceEngine):
    """Count installed configurations."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.installed = 0

    def capabilities(self):
        """Return the engine's capabilities under the name of this backend."""
        return replace(super().capabilities(), name="outside")

    def install(self, configuration):
        """Count, then install."""
        self.installed += 1
        super().install(configuration)


class OutsideBackend:
    """Implements ``overlay.node.backend_plugin.BackendPlugin``."""

    features = BackendFeatures(in_kernel=False, max_hops=3)

    @contextmanager
    def open_backend(self, rng):
        """Yield an engine without devices."""
        engine = CountingEngine(rng=rng)
        yield engine
        engine.flush()

    def open_shell(self, setup):
        """Open the packet shell of the userspace backend with this engine."""
        engine = CountingEngine(rng=setup.rng)
        return UserspaceShell(setup.configuration, setup.host, setup.sockets, engine, setup.reason)

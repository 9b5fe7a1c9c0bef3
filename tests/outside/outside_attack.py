"""A simulated attack of another distribution: malicious nodes name no contact and no record.

It uses only the documented interface: ``sims.world.adversary.attack`` and the entry-point group
``sims.attacks``.
"""

from overlay.dht.messages import Contacts, FindNode, FindRecord
from sims.world.adversary.attack import Attack


class SilenceAttack(Attack):
    """``silence``: answer every request for contacts or records with an empty list."""

    def __init__(self, context):
        self.context = context

    def reply(self, node_id, honest, request):
        """Return an empty list instead of contacts or a record."""
        if isinstance(request.request, FindNode | FindRecord):
            return Contacts(())
        return None

"""From an exception to the one sentence that its user should read."""

from __future__ import annotations

from overlay.control.codec import Failure
from overlay.errors import InternalError, OverlayError

__all__ = ["failure_of", "overlay_error_in"]


def failure_of(error: BaseException) -> Failure:
    """Return the failure to answer with: an error's own sentence, whose plug-in, or a bug."""
    # Imported here: the command line needs the rest of this module alone.
    from overlay.plugin_failures import blamed_plugin

    known = blamed_plugin(error) or overlay_error_in(error)
    if known is not None:
        return Failure(str(known), type(known).__name__)
    sentence = f"the node could not answer because of a bug ({type(error).__name__}); report it."
    return Failure(sentence, InternalError.__name__)


def overlay_error_in(error: BaseException) -> OverlayError | None:
    """Return the error of ours that an exception is, or that a group consists of.

    In a group, a bug comes first; None if anything in it is not ours.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, OverlayError) else None
    parts = [overlay_error_in(part) for part in error.exceptions]
    found = [part for part in parts if part is not None]
    if len(found) != len(parts):
        return None
    return next((part for part in found if isinstance(part, InternalError)), found[0])

"""Turn an exception into the message that the user of the control socket gets."""

from __future__ import annotations

from overlay.control.codec import Failure
from overlay.errors import InternalError, OverlayError

__all__ = ["failure_of", "overlay_error_in"]


def failure_of(error: BaseException) -> Failure:
    """Return the failure to send for an exception.

    Its message is that of a known error, or names the plug-in that failed. For any other
    exception it reports a bug in the node.
    """
    # Imported here because the command line needs only the rest of this module.
    from overlay.plugin_failures import blamed_plugin

    known = blamed_plugin(error) or overlay_error_in(error)
    if known is not None:
        return Failure(str(known), type(known).__name__)
    sentence = f"the node could not answer because of a bug ({type(error).__name__}); report it."
    return Failure(sentence, InternalError.__name__)


def overlay_error_in(error: BaseException) -> OverlayError | None:
    """Return the :class:`OverlayError` that an exception is, or one from a group of them.

    In a group, an :class:`InternalError` has precedence. The result is None if the exception, or
    any exception in the group, is not an :class:`OverlayError`.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, OverlayError) else None
    parts = [overlay_error_in(part) for part in error.exceptions]
    found = [part for part in parts if part is not None]
    if len(found) != len(parts):
        return None
    return next((part for part in found if isinstance(part, InternalError)), found[0])

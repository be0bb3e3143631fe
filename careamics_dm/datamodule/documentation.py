"""What a data module says of itself: its signature, help text, settings and patches."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from textwrap import indent
from typing import Any

from careamics_dm.datamodule.settings import Settings
from careamics_dm.datamodule.validation_split import Split
from careamics_dm.docstrings import parameters
from careamics_dm.images.argument_checks import similar


def document(format_class: type) -> None:
    """Put the shared parameters into the signature and the docstring of a format.

    Parameters
    ----------
    format_class : type
        A class whose ``__init__`` may take ``**shared``.
    """
    init: Any = format_class.__init__  # type: ignore[misc]
    this, *own = inspect.signature(init).parameters.values()
    takes_shared = bool(init.__code__.co_flags & inspect.CO_VARKEYWORDS)
    named = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
    if takes_shared:
        named |= inspect.signature(Settings).parameters
    every = sorted(named.values(), key=lambda p: p.kind)
    format_class.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    init.__signature__ = inspect.Signature([this, *every])  # hydra-zen asks for this one
    if not takes_shared:
        return
    explained = parameters(format_class) | parameters(Settings)
    lines = []
    for name in (p.name for p in every):
        default = named[name].default
        given = f", default {default!r}" if default is not inspect.Parameter.empty else ""
        kind, text = explained.get(name, ("", ""))
        lines.append(f"{name} : {kind or 'any'}{given}\n{indent(text, '    ')}")
    before, _, section = inspect.cleandoc(format_class.__doc__ or "").partition(_HEADING)
    after = re.split(r"\n\n(?=\w+\n---)", section, maxsplit=1)[1:]
    body = "\n".join(lines)
    format_class.__doc__ = "\n\n".join([before.rstrip(), _HEADING.lstrip() + body, *after]) + "\n"


def check_names(owner: type, given: Iterable[str]) -> None:
    """Refuse arguments that a format does not have, and suggest one that it has."""
    names = [field.name for field in fields(Settings)]
    for name in given:
        if name not in names:
            hint = similar(name, [*names, *inspect.signature(owner).parameters])
            raise TypeError(f"{owner.__name__} has no argument {name}.{hint}")


def describe_settings(datamodule: Any, settings: Settings) -> str:
    """Write a data module as the call that makes it, without what was left at its default."""
    given = []
    for name, parameter in inspect.signature(type(datamodule)).parameters.items():
        value = getattr(settings, name, getattr(datamodule, name, parameter.default))
        default = getattr(_DEFAULTS, name, parameter.default)
        if repr(value) != repr(default):
            given.append(f"{name}={_short(value)}")
    return f"{type(datamodule).__name__}({', '.join(given)})"


def describe_patches(settings: Settings, split: Split | None, n_patches: int) -> list[str]:
    """Describe the patches of an epoch and what is held out, a line each."""
    size = "×".join(map(str, settings.patch_size))
    batches = f"batches of {settings.batch_size}"
    if split is None or split.avoided is not None:
        batches += f", {len(split.patches) if split else 0} held out for validation"
    lines = [f"{'patches':<8} {n_patches} of {size} per epoch, {batches}"]
    if split is not None and split.words:
        lines.append(f"{'split':<8} {split.words}")
    return lines


def method_of(settings: Settings) -> str:
    """Describe the method of normalisation, so that it can be compared with another."""
    return f"{settings.method}{' of images only' * (not settings.normalize_target)}"


def _short(value: Any) -> str:
    """Write a value in few words: pixels by their shape, a dictionary by its keys (no secrets)."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"array of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: ..." for key in value) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value[:3]))}{', ...' * (len(value) > 3)}]"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


_DEFAULTS = Settings()
_HEADING = "\nParameters\n----------\n"

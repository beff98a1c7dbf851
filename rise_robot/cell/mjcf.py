"""A few lines that make writing MJCF readable."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import numpy as np

__all__ = ["element"]


def element(parent: Element, tag: str, /, **attributes: object) -> Element:
    """Append an element; numbers and sequences of numbers become MJCF text, strings stay.

    Example:
        >>> element(Element("worldbody"), "geom", type="box", size=(0.1, 0.2, 0.3)).attrib
        {'type': 'box', 'size': '0.1 0.2 0.3'}
    """
    return SubElement(parent, tag, {name: _text(value) for name, value in attributes.items()})


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return " ".join(f"{number:.9g}" for number in np.ravel(np.asarray(value, float)))

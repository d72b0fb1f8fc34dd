"""What the passes over an ONNX graph share."""

from collections.abc import Iterable, Iterator

import onnx


def reads(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Each name that these nodes read, or the bodies of If, Loop and Scan in them; a body's outputs are read too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from (value.name for value in attribute.g.output)
                yield from reads(attribute.g.node)

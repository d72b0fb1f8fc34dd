"""What goes into an engine and what comes out: arrays by the names of the ONNX's inputs and outputs."""

from collections.abc import Callable, Mapping

import numpy as np

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], dict[str, np.ndarray]]

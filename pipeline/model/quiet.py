"""Silences remarks of libraries that no user of Suri can act on; imported before the libraries that make them."""

from __future__ import annotations

import logging
import warnings

# bitsandbytes looks for optional CPU kernels; transformers' own code calls a name that it has deprecated.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")

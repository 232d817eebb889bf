"""The model: its base, what is trained on it, generation, loss. Silences library messages that users cannot act on.

This file runs before any file of the room imports the libraries concerned.
"""

import logging
import warnings

# bitsandbytes looks for optional CPU kernels; transformers' own code uses a name that it has deprecated.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")

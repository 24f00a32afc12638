"""CTranslate2 on a folder of ctranslate2_model.py (peers/timed.py has the arguments). As many threads as THREADS says, in the number
format of the file.
"""

import os

import numpy as np
from timed import arguments, kilobytes, report

BARE = kilobytes("VmRSS:")
import ctranslate2  # noqa: E402

file, given = arguments()
ids = given["--ids"]


def load():
    model = ctranslate2.Encoder(file, compute_type="default", intra_threads=int(os.environ.get("THREADS", 1)), inter_threads=1)
    return lambda: np.array(model.forward_batch([ids], token_type_ids=[[0] * len(ids)]).last_hidden_state)


report("CTranslate2", ctranslate2.__version__, BARE, given, load)

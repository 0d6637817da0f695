"""ASGC and everything else of `asgc.optimizers` in fairseq, by its `--user-dir`:

    fairseq-train DATA --user-dir supervised/fairseq_plugin --optimizer asgc --lr 0.0007 --asgc-clip-factor 2 ...

in a clone. Where the package is installed, the folder is

    $(python -c "import supervised; print(supervised.__path__[0])")/fairseq_plugin

Names, flags and what fairseq cannot do are in the README beside this.

fairseq imports the folder by its own name (`fairseq_plugin`). Everything lives under the package's full name all the
same, so that it is registered once, whoever imports it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

if __name__ == "supervised.fairseq_plugin":
    import torch

    # fairseq's checkpoints hold one. Since torch 2.6 it could not read them again: neither resume nor generate.
    torch.serialization.add_safe_globals([argparse.Namespace])
    from supervised.fairseq_plugin import optimizers as optimizers
    from supervised.fairseq_plugin import prepared_text as prepared_text
else:
    _root = Path(__file__).resolve().parents[2]
    # fairseq has put `supervised` itself on the path: its modules would be found under names such as `config`, `tasks`.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _root / "supervised"]
    _found = importlib.util.find_spec("supervised")
    if _found is None or _found.origin is None or Path(_found.origin).resolve().parent.parent != _root:
        sys.path.insert(0, str(_root))
    importlib.import_module("supervised.fairseq_plugin")

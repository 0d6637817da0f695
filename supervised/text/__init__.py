"""Text for translation: sources of sentence pairs, subwords, prepared token files, batches.

Read `corpus.py`, `corpora.py` (where pairs come from), `subwords.py`, `prepare.py` (once, resumable), `token_files.py`
(what it leaves on disk), `batches.py` (what a training step gets), in this order.
"""

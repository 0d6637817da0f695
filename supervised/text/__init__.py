"""Translation: sources of sentence pairs, subwords, prepared token files, batches; the Transformer, beam search, BLEU.

Read `corpus.py`, `corpora.py` (where pairs come from), `subwords.py`, `prepare.py` (once, resumable), `token_files.py`
(what it leaves on disk), `batches.py` (what a training step gets); then `transformer.py`, `losses.py`,
`beam_search.py`, in this order.
"""

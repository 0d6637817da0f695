"""Translation: data, subwords, the Transformer, beam search, BLEU."""

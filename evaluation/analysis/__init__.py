"""From run folders to claims: `data` loads, `stats` computes, `comparisons` judge."""

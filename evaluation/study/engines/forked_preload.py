"""Imported by the fork server: asks git once which code it has imported, for the provenance of all its runs."""

from evaluation.runs import provenance

provenance.own_code()

"""The report of a study: one HTML page that needs nothing else.

page         puts it together
payload      the figures as data that the page's script draws
sections     the numbers, with what each row stands on
setup        what was run, from the definition
origins      the runs behind the numbers
templates/   the page, its style and its scripts
"""

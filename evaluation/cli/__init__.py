"""Command lines and configuration files: parser, typed values, errors of one line."""

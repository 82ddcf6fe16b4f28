"""Own questions: other tools' files of two-answer questions become suites, and suites become such files.

``text`` decodes, one module a format (``chat``, ``table``, ``written``, ``own``) reads a file's records as
:class:`~harness.importing.question.Question` and writes them, ``suite`` makes items and the suite's folder.
"""

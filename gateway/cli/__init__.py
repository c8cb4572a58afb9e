"""The command line: what `pushgw` does besides serving. Contract of its words: issue 2, "Command line".

    arguments.py     every sub-command and option; names the module that carries it out
    exit_codes.py    the closed list of exit codes, and which error means which
    output.py        progress and errors on stderr, results on stdout: tables for people, JSON lines for machines
    connection.py    from a configuration to a connected client
    <command>.py     `run(options, output) -> exit code`, one module per command
    demo/            the proof: simulators, gateway and devices as processes

Rules for authors: a command module imports what it needs, nobody imports a command module; only this package, `app.py`
and `__main__.py` may start processes or print.
"""

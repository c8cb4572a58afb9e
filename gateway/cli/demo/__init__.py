"""`pushgw demo`: simulators, a gateway and thousands of devices, each its own process, and the proof at their ends.

    run.py         the story, stage by stage
    processes.py   child processes: started, awaited with a limit, ended on every way out
    configs.py     what the children are configured with
    fleet.py       the devices' process: commands and answers
    devices.py     which devices there are: ids, tokens, who is online
    watching.py    waiting for tasks: until they settle, until they end
    proof.py       ledger against receivers: conserved, intact, no duplicates
    cutting.py     whether a text was cut as it may be
    latency.py     percentiles of several tasks together
    report.py      tables and the one JSON object

The proof trusts nobody: what was submitted comes from the file, what the gateway says from its ledger, what arrived
from the receivers, which share no code with it.
"""

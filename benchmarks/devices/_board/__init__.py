"""The agent on a board: pushed there as one zip file, which needs Python 3.7 and its standard library alone.

`python3 agent.zip VERB` is run in the folder there that is ours. A request is one line of JSON on stdin, an answer one or more
lines of JSON on stdout; what goes wrong is {"error", "type", "errno"} and exit status 3.

    open      what the board is, which files of a job are missing, who works there
    put       a tar of missing files on stdin; the job is made of them and started, unless another one runs
    follow    the runner's log from an offset on, then {"end": how it ended}
    take      the results behind one line that lists them; removes the job once stdin says that they arrived
    list      the jobs that run or lie there
    stop      end a job and remove it
    install   packages with the board's own pip, for the Python that runs jobs
    unpack    a tar of wheels on stdin, for that Python
    clean     remove the jobs and the store, or all that is ours

The folder holds `store/SHA256` (files by content), `jobs/ID/` and `lock`, which the keeper of the running job holds. The keeper
is a process of its own that outlives the connection: it starts the runner, ends it when it is late, and writes how it ended
with the checksums of what it left. Who a process is, is told by its number, when it started, and which boot that was.
"""

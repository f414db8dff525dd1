"""The console script, and `python -m loratory`."""

import signal

# The imports take a tenth of a second: a Ctrl-C in there is to end the process without a traceback. `main` puts
# Python's own handler back.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from loratory.cli.main import main

if __name__ == "__main__":
    main()

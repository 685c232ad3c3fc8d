"""`python -m prana_proxy.server` is one process of a proxy, started by its supervisor."""

from prana_proxy.server.worker import main

if __name__ == "__main__":
    main()

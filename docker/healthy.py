#!/usr/local/bin/python
"""Ends with 0 if an address of this container answers 200: `healthy 9091/ready`.

Of an answer in JSON about parts, `healthy 8080/health scheduler` asks whether those named are healthy.
"""

import json
import sys
import urllib.error
import urllib.request

address, *parts = sys.argv[1:]
try:
    with urllib.request.urlopen(f"http://127.0.0.1:{address}", timeout=3) as answer:
        told = json.load(answer) if parts else {}
        sys.exit(answer.status != 200 or any(told[part]["status"] != "healthy" for part in parts))
except (OSError, urllib.error.URLError, LookupError, TypeError, ValueError) as error:
    sys.exit(str(error))

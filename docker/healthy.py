#!/usr/local/bin/python
"""Ends with 0 if an address of this container answers 200: `healthy 9091/ready`."""

import sys
import urllib.error
import urllib.request

try:
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}", timeout=3) as answer:
        sys.exit(answer.status != 200)
except (OSError, urllib.error.URLError) as error:
    sys.exit(str(error))

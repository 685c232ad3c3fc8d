"""A submission ends with its job, and its job with it."""

import signal
import subprocess
import sys

import psutil
import pytest
from proxy_process import until

RUN = "import sys; from delorean.cli.submit import _run; sys.exit(_run(['/bin/sh', '-c', sys.argv[1]]))"


def test_sigterm_ends_the_job_too():
    with subprocess.Popen([sys.executable, "-c", RUN, "exec sleep 60"]) as submission:
        process = psutil.Process(submission.pid)
        until(lambda: any("sleep" in child.name() for child in process.children()))
        [job] = process.children()
        submission.send_signal(signal.SIGTERM)
        assert submission.wait(60) == 128 + signal.SIGTERM
        assert not job.is_running()


@pytest.mark.parametrize(("script", "code"), [("exit 255", 255), ("exit 3", 3), ("kill -9 $$", 137)])
def test_its_exit_code_is_the_jobs_as_a_shell_says_it(script, code):
    assert subprocess.run([sys.executable, "-c", RUN, script], check=False).returncode == code
